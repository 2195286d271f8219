"""MDP: published sizes, the identities of its losses, its two phases, pictures of any size."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from polytask.data import Batch, Processor, Suite
from polytask.data.dual_pixel_views import scene_suite
from polytask.data.processor import PictureColumn
from polytask.errors import InputError
from polytask.systems.dual_pixel import (
    DualPixel,
    Pretraining,
    aggregate_loss,
    constant_channels,
    difference_loss,
)
from polytask.tasks import Classification, Picture, Regression, Segmentation, Task
from polytask.testing import check_system, photograph_suite
from polytask.training import Training

ALL = ("sharp", "left", "right")


def spec(*names, channels=3, size=(32, 32)):
    tasks = tuple(Task(n, Picture()) for n in names or ALL)
    return Processor({}, {}, {}, tasks, {"blurred": PictureColumn(size, channels)})


def tiny(epochs=2, **settings):
    training = Training(lr=2e-3, batch=4, epochs=epochs, patience=epochs, device="cpu")
    small = {"width": 4, "pools": 2, "mixture": "joint", "augment": "none", "training": training}
    return DualPixel(**{"pretraining": Pretraining(lr=2e-3, epochs=1), **small, **settings})


def batch_of(rows=3, size=(16, 16), names=ALL):
    def pictures():
        return torch.rand(rows, 3, *size)

    left, right = pictures(), pictures()
    targets = {"sharp": pictures(), "left": left, "right": right}
    masks = {n: torch.ones(rows, dtype=torch.bool) for n in names}
    return Batch({"blurred": (left + right) / 2}, {n: targets[n] for n in names}, masks)


@pytest.fixture(scope="module")
def suite():
    return scene_suite(views_only=8, pairs=4, validation=2, test=3, size=16)


@pytest.fixture(scope="module")
def fitted(suite):
    return tiny().fit(suite)


# -- the network -----------------------------------------------------------------------------------


def test_the_published_network_has_46860397_parameters():
    with torch.device("meta"):
        net = DualPixel().build(spec())
    count = sum(p.numel() for p in net.parameters())
    early, late = (
        sum(p.numel() for p in parts["sharp"].parameters()) for parts in (net.early, net.heads)
    )
    assert count == 46_860_397
    assert (early, late) == (13_962_112, 882_831)
    encoder = sum(p.numel() for p in net.encoder.parameters())
    assert count == encoder + 3 * (early + late)


def test_alone_it_is_a_u_net_of_17_million():
    with torch.device("meta"):
        net = DualPixel().build(spec("sharp"))
    assert 16.5e6 < sum(p.numel() for p in net.parameters()) < 17.5e6
    assert net.terms == ("sharp",)


def test_defaults_are_the_papers():
    learner = DualPixel()
    assert (learner.training.lr, learner.training.batch, learner.training.epochs) == (6e-4, 8, 80)
    assert learner.training.schedule == "halving(every=8)" and not learner.training.weight_decay
    assert learner.weights == (1.0, 0.2, 0.2, 0.2)
    assert learner.pretraining == Pretraining(3e-4, 60, (1.0, 0.2, 0.2), 0.0)


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (17, 30), (5, 64)])
@pytest.mark.parametrize("pools", [2, 4])
def test_a_picture_of_any_size_is_answered_at_its_size(size, pools):
    net = tiny(pools=pools).build(spec()).eval()
    found = net.outputs({"blurred": torch.rand(2, 3, *size)}, ALL)
    assert {o.shape for o in found.values()} == {(2, 3, *size)}
    assert all(o.min() >= 0 and o.max() <= 1 for o in found.values())


def test_padding_is_at_the_top_and_on_the_left():
    net = tiny().build(spec()).eval()
    picture = torch.rand(1, 3, 13, 15)
    padded = torch.nn.functional.pad(picture, (1, 0, 3, 0))
    whole = net.outputs({"blurred": padded}, ["sharp"])["sharp"]
    torch.testing.assert_close(
        net.outputs({"blurred": picture}, ["sharp"])["sharp"], whole[..., 3:, 1:]
    )


@pytest.mark.parametrize("other", ["left", "right"])
def test_the_exchange_is_wired(other):
    net = tiny().build(spec()).eval()
    inputs = {"blurred": torch.rand(1, 3, 16, 16)}
    before = net.outputs(inputs, ["sharp"])["sharp"]
    for parameter in net.early[other].parameters():
        torch.nn.init.zeros_(parameter)  # u is 0 now
    assert not torch.allclose(before, net.outputs(inputs, ["sharp"])["sharp"])


def test_deblurring_alone_skips_the_late_halves_of_the_views(fitted, suite):
    called = []
    handles = [
        fitted.module_.heads[task].register_forward_hook(lambda *_, t=task: called.append(t))
        for task in ALL
    ]
    alone = fitted.predict(suite.table("test"), ["sharp"])
    assert called == ["sharp"]
    np.testing.assert_array_equal(alone["sharp"], fitted.predict(suite.table("test"))["sharp"])
    for handle in handles:
        handle.remove()


def test_residual_starts_from_the_input():
    net = tiny(residual=True).build(spec()).eval()
    picture = torch.rand(2, 3, 16, 16) * 0.9 + 0.05
    for answer in net.outputs({"blurred": picture}, ALL).values():
        torch.testing.assert_close(answer, picture)


@pytest.mark.parametrize("rectify", [True, False])
def test_rectify_is_the_published_layer(rectify):
    net = tiny(rectify=rectify).build(spec("sharp"))
    kinds = [type(layer).__name__ for layer in net.heads["sharp"].last]
    assert kinds == ["Conv2d", *(["ReLU"] if rectify else []), "Conv2d"]


# -- the losses ------------------------------------------------------------------------------------


def view_losses(left, right, true_left, true_right):
    combined, rows = (true_left + true_right) / 2, torch.ones(len(left), dtype=torch.bool)
    both = ((left - true_left).square().mean() + (right - true_right).square().mean()) / 2
    return torch.stack(
        [
            both,
            aggregate_loss(left, right, combined),
            difference_loss(left, right, true_left, true_right, rows),
        ]
    )


@pytest.fixture
def views():
    return [torch.rand(2, 3, 8, 8) for _ in range(4)]


def test_the_loss_of_views_is_the_sum_part_and_a_quarter_of_the_difference(views):
    both, sums, differences = view_losses(*views)
    torch.testing.assert_close(both, sums + differences / 4)


def test_the_difference_does_not_see_what_both_views_share(views):
    left, right, *true = views
    shared = torch.rand(2, 3, 8, 8)
    _, sums, differences = view_losses(left, right, *true)
    _, other, same = view_losses(left + shared, right + shared, *true)
    torch.testing.assert_close(differences, same)
    assert not torch.isclose(sums, other)


def test_the_sum_does_not_see_what_one_view_takes_from_the_other(views):
    left, right, *true = views
    moved = torch.rand(2, 3, 8, 8)
    _, sums, differences = view_losses(left, right, *true)
    _, same, other = view_losses(left + moved, right - moved, *true)
    torch.testing.assert_close(sums, same)
    assert not torch.isclose(differences, other)


def test_left_and_right_may_change_places(views):
    left, right, true_left, true_right = views
    torch.testing.assert_close(
        view_losses(left, right, true_left, true_right),
        view_losses(right, left, true_right, true_left),
    )


def test_all_losses_of_a_batch():
    net = tiny().build(spec()).eval()
    batch = batch_of()
    losses, found = net.losses(batch), net.outputs(batch.inputs, ALL)
    assert tuple(losses) == net.terms == (*ALL, "left+right", "left-right")
    for task in ALL:
        torch.testing.assert_close(
            losses[task], (found[task] - batch.targets[task]).square().mean()
        )
    both, sums, differences = view_losses(
        found["left"], found["right"], batch.targets["left"], batch.targets["right"]
    )
    torch.testing.assert_close((losses["left"] + losses["right"]) / 2, both)
    torch.testing.assert_close(losses["left+right"], sums)
    torch.testing.assert_close(losses["left-right"], differences)


def test_weights_are_those_of_the_four_losses(suite):
    learner = tiny(weights=(1.0, 0.4, 0.3, 0.2))
    learner.processor_ = Processor.fit(suite)
    net = learner.build(learner.processor_)
    first, second = learner.stages(net, suite)
    assert second.weights == {
        "sharp": 1.0,
        "left": 0.2,
        "right": 0.2,
        "left+right": 0.3,
        "left-right": 0.2,
    }
    assert first.weights["left"] == 0.5 and first.weights["left-right"] == 0.2
    net.eval()
    batch = batch_of()
    plain = net.losses(batch)
    net.weights = dict(second.weights)
    for name, loss in net.losses(batch).items():
        torch.testing.assert_close(loss, plain[name] * second.weights[name])


def test_rows_without_views_do_not_reach_the_difference():
    net = tiny().build(spec()).eval()
    batch = batch_of()
    expected = net.losses(batch[torch.tensor([0, 2])])["left-right"]
    for side in ("left", "right"):
        batch.targets[side][1] = torch.nan
        batch.masks[side][1] = False
    torch.testing.assert_close(net.losses(batch)["left-right"], expected)
    for side in ("left", "right"):
        batch.masks[side][:] = False
    losses = net.losses(batch)
    assert losses["left-right"] == 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_one_view_alone_has_no_losses_of_both():
    net = tiny().build(spec("sharp", "left"))
    assert net.terms == ("sharp", "left")
    assert set(net.losses(batch_of(names=("sharp", "left")))) == {"sharp", "left"}


# -- the phases ------------------------------------------------------------------------------------


def test_phase_one_leaves_the_deblurring_decoder_as_it_was(suite):
    starts = {}

    class Watched(DualPixel):
        def stages(self, module, suite):
            starts.update({n: p.detach().clone() for n, p in module.named_parameters()})
            return super().stages(module, suite)[:1]

    learner = Watched(**{k: v for k, v in vars(tiny()).items() if not k.endswith("_")}).fit(suite)
    assert list(learner.stages_) == ["views"]
    for name, value in learner.module_.named_parameters():
        assert torch.equal(value, starts[name]) == ("task:sharp" in name), name


def test_gradients_of_the_views_pass_through_the_frozen_decoder():
    net, batch = tiny().build(spec()), batch_of(names=("left", "right"))
    for part in (net.early["sharp"], net.heads["sharp"]):
        part.requires_grad_(False)
    encoder = list(net.encoder.parameters())
    through = torch.autograd.grad(net.losses(batch)["left"], encoder)
    net.early["sharp"].register_forward_hook(lambda module, given, u: u.detach())
    around = torch.autograd.grad(net.losses(batch)["left"], encoder)
    assert not any(torch.allclose(a, b) for a, b in zip(through, around, strict=True))


def test_each_phase_sees_its_rows(suite):
    learner = tiny()
    learner.processor_ = Processor.fit(suite)
    module = learner.build(learner.processor_)
    views, everything = learner.stages(module, suite)
    assert (len(views.data), len(everything.data)) == (12, 4)
    assert set(views.data.masks) == set(views.validation.masks) == {"left", "right"}
    assert set(everything.data.masks) == set(ALL)
    assert (views.training.lr, views.training.epochs) == (2e-3, 1)
    assert set(views.frozen) == {module.early["sharp"], module.heads["sharp"]}


@pytest.mark.parametrize(
    ("tasks", "phases"),
    [
        (ALL, ["views", "all"]),
        (("sharp",), ["all"]),
        (("sharp", "left"), ["all"]),
        (("left", "right"), ["views"]),
    ],
)
def test_phases_of_every_set_of_tasks(suite, tasks, phases):
    learner = tiny(epochs=1).fit(suite.only(*tasks))
    assert list(learner.stages_) == phases
    assert set(learner.score(suite.only(*tasks))) == set(tasks)
    assert learner.stages_[phases[-1]].epoch == 1


def test_without_phase_one(suite):
    assert list(tiny(epochs=1, pretraining=None).fit(suite).stages_) == ["all"]


def test_the_released_code_copies_in_phase_one(suite):
    learner = tiny(epochs=1, pretraining=Pretraining(lr=2e-3, epochs=1, copy=1.0)).fit(suite)
    first, second = (learner.stages_[name].history[0]["loss"] for name in ("views", "all"))
    assert first["sharp as input"] > 0 and "sharp" not in first
    assert "sharp as input" not in second and second["sharp"] > 0


def test_it_learns(suite):
    training = Training(lr=5e-3, batch=4, epochs=50, patience=50, device="cpu")
    learner = tiny(training=training, residual=True, width=8, pretraining=None).fit(suite)
    losses = [record["loss"]["sharp"] for record in learner.history_]
    assert losses[-1] < 0.9 * losses[0]


# -- use -------------------------------------------------------------------------------------------


def test_a_picture_is_restored_at_its_own_size(fitted):
    picture = np.random.default_rng(0).integers(0, 255, (21, 34, 3)).astype(np.uint8)
    found = fitted.restore(picture, ["sharp"])
    assert set(found) == {"sharp"} and found["sharp"].shape == (3, 21, 34)
    with pytest.raises(InputError, match=r"\[height, width, 3\]"):
        fitted.restore(picture[..., :2])


def test_eight_motion_views(fitted):
    picture = np.random.default_rng(0).random((12, 20, 3)).astype(np.float32)
    views = fitted.motion_views(picture)
    assert views.shape == (8, 3, 12, 20) and views.min() >= 0 and views.max() <= 1
    side = int(np.ceil(np.hypot(12, 20)))
    top, left = (side - 12) // 2, (side - 20) // 2
    around = [(top, side - 12 - top), (left, side - 20 - left), (0, 0)]
    canvas = np.pad(picture, around, mode="edge")
    straight = fitted.restore(canvas, ["left", "right"])
    for place, name in ((6, "left"), (2, "right")):
        expected = straight[name][:, top : top + 12, left : left + 20]
        np.testing.assert_allclose(views[place], expected, atol=1e-6)
    across = fitted.restore(np.rot90(canvas, -1).copy(), ["left"])["left"]
    back = np.rot90(across, 1, axes=(1, 2))[:, top : top + 12, left : left + 20]
    other = np.rot90(fitted.restore(np.rot90(canvas, 1).copy(), ["left"])["left"], -1, axes=(1, 2))[
        :, top : top + 12, left : left + 20
    ]
    gaps = [np.abs(views[4] - found).max() for found in (back, other)]
    assert min(gaps) < 1e-5 < max(gaps)


def test_motion_views_need_the_views(suite):
    with pytest.raises(InputError, match="left"):
        tiny(epochs=1).fit(suite.only("sharp")).motion_views(np.zeros((8, 8, 3)))


def test_other_kinds_are_answered_as_well():
    kinds = {
        "far": Segmentation(classes=("a", "b")),
        "sharp": Picture(),
        "red": Classification(classes=(0, 1)),
        "size": Regression(),
    }
    tasks = tuple(Task(n, kind) for n, kind in kinds.items())
    net = tiny().build(Processor({}, {}, {}, tasks, {"p": PictureColumn((16, 16), 3)}))
    found = net.outputs({"p": torch.rand(2, 3, 16, 16)}, kinds)
    shapes = {name: tuple(o.shape) for name, o in found.items()}
    assert shapes == {
        "far": (2, 2, 16, 16),
        "sharp": (2, 3, 16, 16),
        "red": (2, 1),
        "size": (2, 1),
    }


def test_promises():
    small = {"width": 4, "pools": 2, "mixture": "joint", "augment": "none"}
    checks = check_system(DualPixel, suite=photograph_suite(), **small)
    assert [c for c in checks if c.passed is False] == []


# -- what is watched and refused -------------------------------------------------------------------


def test_a_dead_channel_is_told():
    pictures = torch.rand(2, 3, 8, 8)
    assert constant_channels(pictures) == []
    pictures[:, 1] = 0.3
    assert constant_channels(pictures) == [1]


@pytest.mark.parametrize("residual", [True, False])
def test_a_dead_decoder_warns_in_training(residual):
    net, batch = (
        tiny(rectify=True, residual=residual).build(spec("sharp")),
        batch_of(names=("sharp",)),
    )
    torch.nn.init.constant_(net.heads["sharp"].last[0].bias, -100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.eval().losses(batch)
        for _ in range(19):
            net.train().losses(batch)
    with pytest.warns(UserWarning, match=r"'sharp' answers one constant in channel 0, 1, 2"):
        net.losses(batch)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pools": 1}, "pools is at least 2"),
        ({"weights": (1.0, 0.2)}, "4 weights"),
        ({"pretraining": Pretraining(weights=(1.0,))}, "3 in pretraining"),
        ({"mixture": DualPixel().mixture}, "augment"),
    ],
)
def test_wrong_settings_are_refused(suite, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny(**settings).fit(suite)


def test_a_view_is_a_picture_of_the_inputs_channels(suite):
    with pytest.raises(InputError, match=r"'left'.*view of column 'blurred'.*4 channels"):
        tiny().build(spec("left", "right", channels=4))


def test_two_pictures_are_refused(suite):
    both = replace(spec(), pictures=dict.fromkeys("ab", PictureColumn((16, 16), 3)))
    with pytest.raises(InputError, match="exactly one picture"):
        tiny().build(both)


def test_it_saves_and_loads(fitted, suite, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    again = DualPixel.from_pretrained(tmp_path / "model")
    for task, found in again.predict(suite.table("test")).items():
        np.testing.assert_array_equal(found, fitted.predict(suite.table("test"))[task])


def test_views_may_have_other_names(suite):
    assert isinstance(suite, Suite)
    net = tiny(left="l", right="r").build(spec("l", "r"))
    assert net.terms == ("l", "r", "l+r", "l-r")
