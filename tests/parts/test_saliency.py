import pytest
import torch

from polytask.parts.saliency import of_attention, of_gradient, of_rollout, without


def attention(blocks=1, rows=3, heads=2, tokens=6):
    torch.manual_seed(0)
    return [torch.randn(rows, heads, tokens, tokens).softmax(-1) for _ in range(blocks)]


def test_plain_relevance_is_the_cls_row_without_the_cls_token():
    (weights,) = attention()
    row = weights[1, :, 0].mean(0)
    torch.testing.assert_close(of_attention(weights)[1], row[1:] / (1 - row[0]))


@pytest.mark.parametrize("method", ["plain", "gradient", "rollout"])
def test_relevance_is_a_share_of_each_token(method):
    weights = attention(blocks=3)
    found = {
        "plain": lambda: of_attention(weights[0]),
        "gradient": lambda: of_gradient(weights[0], torch.randn(3, 2, 6, 6)),
        "rollout": lambda: of_rollout(weights),
    }[method]()
    assert found.shape == (3, 5)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_gradient_keeps_what_raises_the_answer_only():
    weights = torch.full((1, 1, 4, 4), 0.25)
    gradient = torch.zeros(1, 1, 4, 4)
    gradient[0, 0, 0] = torch.tensor([5.0, 3.0, -8.0, 1.0])
    torch.testing.assert_close(of_gradient(weights, gradient), torch.tensor([[0.75, 0.0, 0.25]]))


def test_gradient_that_raises_nothing_prefers_no_token():
    (weights,) = attention()
    torch.testing.assert_close(
        of_gradient(weights, -torch.ones_like(weights)).var(1), torch.zeros(3)
    )


def test_rollout_of_one_block_is_its_plain_relevance():
    weights = attention()
    torch.testing.assert_close(of_rollout(weights), of_attention(weights[0]))


def test_rollout_is_the_product_of_the_blocks():
    first, second = attention(blocks=2)
    eye = torch.eye(6)
    product = (second[0].mean(0) + eye) @ (first[0].mean(0) + eye)
    row = product[0, 1:]
    torch.testing.assert_close(of_rollout([first, second])[0], row / row.sum())


def test_the_most_relevant_tokens_are_deleted_and_the_others_keep_their_order():
    tokens = torch.arange(6.0).view(1, 6, 1).expand(2, 6, 3)
    relevance = torch.tensor([[0.5, 0.1, 0.0, 0.3, 0.1], [0.0, 0.1, 0.2, 0.3, 0.4]])
    left = without(tokens, relevance, 0.4)
    assert left[0, :, 0].tolist() == [0, 2, 3, 5]
    assert left[1, :, 0].tolist() == [0, 1, 2, 3]
