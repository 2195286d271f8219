import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from polytask.data import Processor, Suite
from polytask.errors import InputError
from polytask.systems.sleep_vit import SleepViT, focal_loss
from polytask.testing import check_system
from polytask.training import Training

TINY = {"patch": 4, "width": 16, "depth": 2, "heads": 3, "ff": 16, "dense": 8, "survival": 0.9}


def signals(rows=240, length=26, channels=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, length, channels)).astype(np.float32)
    kind = rng.integers(0, 3, rows)
    x[:, :12, 0] += 3 * kind[:, None] - 3
    still = rng.random(rows) < 0.5
    x[still, 12:, 1] *= 0.1
    return x, kind, still


def signal_suite(transpose=False, **other):
    x, kind, still = signals()
    table = {
        "signal": x.transpose(0, 2, 1) if transpose else x,
        "stage": np.array(["wake", "light", "deep"])[kind],
        "still": pa.array(still, mask=np.random.default_rng(1).random(240) < 0.3),
        "level": kind + 0.5,
        **other,
    }
    return Suite.from_table(table, ["stage", "still", "level"], name="signals")


def tiny(epochs=2, **settings):
    training = Training(lr=3e-3, batch=16, epochs=epochs, patience=epochs)
    return SleepViT(**{**TINY, "training": training, **settings})


@pytest.fixture(scope="module")
def fitted():
    return tiny(epochs=20).fit(signal_suite())


@pytest.fixture(scope="module")
def rows():
    return {"signal": signals()[0][:7]}


def test_keeps_the_promises_of_every_learner():
    for check in check_system(SleepViT, suite=signal_suite(), **TINY):
        assert check.passed is not False, check


def test_the_paper_has_two_million_parameters():
    x = np.random.default_rng(0).normal(size=(10, 2000, 5)).astype(np.float32)
    table = {"signal": x, "stage": np.arange(10) % 5, "disorder": np.arange(10) % 4}
    split = {"split": ["train"] * 5 + ["validation"] * 2 + ["test"] * 3}
    tasks = dict.fromkeys(["stage", "disorder"], "classification")
    table["stage"][:], table["disorder"][:] = [0, 1, 2, 3, 4] * 2, [0, 1, 2, 3, 0, 0, 1, 0, 1, 0]
    suite = Suite.from_table(table | split, tasks, split="column:split")
    module = SleepViT().build(Processor.fit(suite))
    trunk = sum(p.numel() for m in (module.tokens, module.encoder) for p in m.parameters())
    assert trunk == 2_002_432
    assert sum(p.numel() for p in module.dense.parameters()) == 256 * 128 + 128
    assert sum(p.numel() for p in module.heads.parameters()) == 129 * (5 + 4)
    attention = module.encoder.blocks[0].attention
    assert (attention.head_width, attention.query.out_features) == (42, 252)
    assert module.tokens(torch.zeros(1, 5, 2000)).shape == (1, 101, 256)


def test_it_learns(fitted):
    scores = fitted.score(signal_suite())
    assert scores["stage"]["accuracy"] > 0.8
    assert scores["level"]["ev"] > 0.7


def test_the_other_layout_is_the_same_model(fitted, rows):
    other = tiny(layout="CL").fit(signal_suite(transpose=True))
    other.module_.load_state_dict(fitted.module_.state_dict())
    answers = other.predict({"signal": rows["signal"].transpose(0, 2, 1)})
    for task, values in fitted.predict(rows).items():
        np.testing.assert_allclose(answers[task], values, atol=1e-5)


def test_a_signal_of_one_channel_may_come_flat():
    x, _, still = signals(channels=2)
    suite = Suite.from_table({"signal": x[:, :, 1].copy(), "still": still}, ["still"])
    assert tiny().fit(suite).predict({"signal": x[:5, :, 1].copy()})["still"].shape == (5, 2)


def test_channels_permuted_with_the_weights_change_nothing(fitted, rows):
    batch = fitted.processor_.inputs(rows).inputs
    expected = fitted.module_.eval().embed(batch)
    weight = fitted.module_.tokens.patches.weight
    before, order = weight.data.clone(), [2, 0, 1]
    weight.data = before[:, order].contiguous()
    again = fitted.module_.embed({"signal": batch["signal"][:, :, order]})
    weight.data = before
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("classes", [3, 5])
def test_focal_loss_without_focus_is_cross_entropy_over_k(classes):
    torch.manual_seed(0)
    output, target = torch.randn(20, classes), torch.randint(classes, (20,))
    mask = torch.rand(20) < 0.6
    expected = F.cross_entropy(output[mask], target[mask]) / classes
    torch.testing.assert_close(focal_loss(output, target, mask, 1.0, 0.0), expected)


def test_focal_loss_of_one_logit_is_that_of_two():
    torch.manual_seed(0)
    z, target, mask = torch.randn(9, 1), torch.randint(2, (9,)), torch.ones(9, dtype=torch.bool)
    both = torch.cat([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(focal_loss(z, target, mask), focal_loss(both, target, mask))


def test_focal_loss_is_its_formula_over_all_classes():
    torch.manual_seed(0)
    output, target = torch.randn(6, 4), torch.randint(4, (6,))
    p, y = output.softmax(1), F.one_hot(target, 4)
    terms = -0.25 * (1 - p) ** 2 * y * p.log()
    found = focal_loss(output, target, torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(found, terms.mean(1).mean())


def test_focal_loss_of_no_label_is_zero_with_finite_gradients():
    output = torch.randn(3, 4, requires_grad=True)
    loss = focal_loss(output, torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert output.grad is not None and (output.grad == 0).all()


def test_focal_tasks_have_the_focal_loss_and_the_others_their_own():
    suite = signal_suite()
    processor = Processor.fit(suite)
    batch = processor.encode(suite, "train")
    torch.manual_seed(0)
    plain = tiny().build(processor).eval()
    focal = tiny(focal=("stage",), focal_alpha=1.0, focal_gamma=0.0).build(processor).eval()
    focal.load_state_dict(plain.state_dict())
    before, after = plain.losses(batch), focal.losses(batch)
    assert list(after) == list(before)
    torch.testing.assert_close(after["stage"], before["stage"] / 3)
    torch.testing.assert_close(after["still"], before["still"])


def test_a_weight_multiplies_the_loss_whichever_it_is():
    processor = Processor.fit(signal_suite())
    batch = processor.encode(signal_suite(), "train")
    plain = tiny(focal=("stage",)).build(processor).eval()
    heavy = tiny(focal=("stage",), weights=("stage=2.0", "still=3", "no such task=9")).build(
        processor
    )
    heavy.load_state_dict(plain.state_dict())
    before, after = plain.losses(batch), heavy.eval().losses(batch)
    for task, factor in {"stage": 2.0, "still": 3.0, "level": 1.0}.items():
        torch.testing.assert_close(after[task], factor * before[task])


def test_without_weight_a_task_teaches_nothing():
    both = tiny(epochs=1, weights=("still=0", "level=0")).fit(signal_suite())
    alone = tiny(epochs=1).fit(signal_suite().only("stage"))
    torch.manual_seed(both.training.seed)
    start = both.build(both.processor_)
    for task in ("still", "level"):
        assert torch.equal(both.module_.heads[task].weight, start.heads[task].weight)
    assert not torch.equal(both.module_.heads["stage"].weight, start.heads["stage"].weight)
    learned = dict(both.module_.named_parameters())
    for name, parameter in alone.module_.named_parameters():
        torch.testing.assert_close(learned[name], parameter, msg=name)


@pytest.mark.parametrize("method", ["plain", "gradient", "rollout"])
def test_attention_is_a_curve_of_whole_patches(fitted, rows, method):
    task = "stage" if method == "gradient" else None
    curve = fitted.attention(rows, task, method)
    assert curve.shape == (7, 6 * 4)  # 26 samples: six patches of four
    assert (curve.reshape(7, 6, 4) == curve.reshape(7, 6, 4)[:, :, :1]).all()
    np.testing.assert_allclose(curve.sum(1), 4, rtol=1e-5)
    part = fitted.attention({"signal": rows["signal"][2:3]}, task, method)
    np.testing.assert_allclose(part[0], curve[2], atol=1e-5)


def test_plain_attention_is_the_cls_row_of_the_block_asked_for(fitted, rows):
    module = fitted.module_.eval()
    _, weights = module.encoder.attention(module.embed(fitted.processor_.inputs(rows).inputs))
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(weights[0].shape[:-1]))
    row = weights[0].mean(1)[:, 0, 1:]
    expected = (row / row.sum(1, keepdim=True)).detach().numpy().repeat(4, axis=1)
    np.testing.assert_allclose(fitted.attention(rows, block=0), expected, rtol=1e-5)


def test_gradient_attention_is_about_its_task(fitted, rows):
    curves = [fitted.attention(rows, task) for task in ("stage", "still", "level")]
    assert np.abs(curves[0] - curves[1]).max() > 1e-3
    assert np.abs(curves[0] - curves[2]).max() > 1e-3
    np.testing.assert_array_equal(curves[0], fitted.attention(rows, "stage", "gradient"))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"method": "gradient"}, "name it"),
        ({"method": "plain", "task": "stage"}, "leave task='stage' out"),
        ({"method": "gradient", "task": "stages"}, "did you mean 'stage'"),
        ({"method": "roll"}, "did you mean 'rollout'"),
        ({"block": 2}, "blocks 0 to 1"),
    ],
)
def test_wrong_questions_about_attention_are_refused(fitted, rows, asked, sentence):
    with pytest.raises(InputError, match=sentence):
        fitted.attention(rows, **asked)


def test_minmax_refuses_a_constant_channel_wherever_it_is():
    x, kind, _ = signals()
    good = Suite.from_table({"signal": x, "kind": kind}, {"kind": "classification"})
    model = tiny(scale="minmax").fit(good)
    bad = x[:7].copy()
    bad[2, :, 1] = 0.4
    for ask in (model.predict, model.attention):
        with pytest.raises(InputError, match="channel 1 is constant in row 3"):
            ask({"signal": bad})
    still = x.copy()
    still[-1, :, 2] = 1.0
    table = {"signal": still, "kind": kind, "part": (["train", "test", "validation"] * 80)}
    suite = Suite.from_table(table, {"kind": "classification"}, split="column:part")
    with pytest.raises(InputError, match="channel 2 is constant in row 80 of validation"):
        tiny(scale="minmax").fit(suite)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"patch": 27}, "'signal': a signal of 26 samples is shorter than a patch of 27"),
        ({"layout": "CL"}, "26 channels of 3 samples; set layout='LC'"),
        ({"layout": "BCL"}, "layout is 'BCL'"),
        ({"scale": "z"}, "scale is 'z'"),
        ({"weights": ("disorder",)}, "'disorder' is not of the form task=number"),
        ({"weights": ("stage=-1",)}, "'stage=-1' must be at least 0"),
        ({"focal": ("level",)}, "'level'.* is no classification"),
        ({"survival": 2.0}, "survival in"),
    ],
)
def test_wrong_settings_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny(**settings).fit(signal_suite())


def test_other_columns_are_refused_by_name():
    with pytest.raises(InputError, match="'signal', 'age': exclude"):
        tiny().fit(signal_suite(age=np.arange(240)))
