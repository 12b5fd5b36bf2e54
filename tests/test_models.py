"""Networks: size, weights from three sources, losses and learning rates, saving and loading."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from models import build, classifier, hub, pretrained, probe, scratch
from pipeline import config, portable, tasks
from pipeline.training import build as training_build

SINGLE = tasks.of("single_label")
REAL = Path(__file__).resolve().parents[2] / "shared/data/oxford-iiit-pet/images.tar.gz"


def _scratch(classes: int) -> torch.nn.Module:
    return build.build(OmegaConf.to_container(config.compose("model=scratch").model.net), classes)


def test_scratch_has_at_most_3_million_parameters():
    net = _scratch(37)
    assert sum(parameter.numel() for parameter in net.parameters()) <= 3_000_000


@pytest.mark.parametrize("side", [32, 50, 96, 128])
def test_scratch_takes_any_size_and_has_finite_outputs(side):
    net = _scratch(5)
    assert torch.isfinite(net(torch.randn(2, 3, side, side))).all()


def test_the_packages_weights_replace_every_initial_weight():
    torch.manual_seed(0)
    fresh = timm.create_model("tf_efficientnet_lite0").state_dict()
    loaded = pretrained.imagenet_from_package("tf_efficientnet_lite0").state_dict()
    weights = [name for name in fresh if name.endswith("weight")]
    assert all(not torch.equal(fresh[name], loaded[name]) for name in weights)


@pytest.mark.skipif(not REAL.is_file(), reason="needs real photos in ../shared/data")
def test_photos_of_cats_are_classified_as_imagenet_cats():
    import tarfile

    net = pretrained.imagenet_from_package("tf_efficientnet_lite0").eval()
    spec = pretrained.preprocessing(net)
    cats = found = 0
    with tarfile.open(REAL) as archive:
        for member in archive:
            if Path(member.name).name.startswith(("Persian_1", "Egyptian_Mau_1", "Bengal_1")) and cats < 20:
                image = np.asarray(portable.read_picture(archive.extractfile(member).read()))
                resized = portable.to_square(
                    image, spec["size"], spec["interpolation"], "center", spec["crop_pct"]
                )
                x = (
                    torch.from_numpy(resized.copy()).float() / 255 - torch.tensor(spec["mean"])
                ) / torch.tensor(spec["std"])
                with torch.no_grad():
                    found += int(net(x.permute(2, 0, 1)[None]).argmax()) in range(281, 286)
                cats += 1
    assert cats == 20
    assert found >= 16


def test_weights_from_a_file_replace_all_but_the_head(tmp_path):
    backbone = "resnet10t"
    source = timm.create_model(backbone, num_classes=11)
    save_file(source.state_dict(), tmp_path / "given.safetensors")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "given.pth")
    for file in ("given.safetensors", "given.pth"):
        net = pretrained.create(5, backbone, "file", str(tmp_path / file))
        assert torch.equal(net.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"])
        assert net.get_classifier().out_features == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet1800"}, "timm has no model 'resnet1800'"),
        ({"backbone": "resnet18", "weights": "package"}, "no package has weights of 'resnet18'"),
        ({"backbone": "resnet18", "weights": "file", "file": "/no/such"}, "'/no/such' is not a file"),
        ({"backbone": "resnet18", "weights": "moon"}, "weights=moon must be package, hub or file"),
    ],
)
def test_unavailable_weights_are_an_error(arguments, message):
    with pytest.raises(build.WeightsError, match=message):
        pretrained.create(5, **arguments)


def test_a_file_of_another_network_or_without_weights_is_an_error(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "none.pth").write_bytes(b"no weights")
    with pytest.raises(build.WeightsError, match="does not fit the network"):
        pretrained.create(5, "resnet10t", "file", str(tmp_path / "other.safetensors"))
    with pytest.raises(build.WeightsError, match="can't be read as weights"):
        pretrained.create(5, "resnet10t", "file", str(tmp_path / "none.pth"))


def test_an_exception_of_the_hubs_client_is_reported(monkeypatch):
    monkeypatch.setattr(hub, "_problem", lambda repository: None)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(build.WeightsError, match="no weights of 'resnet18' from the Hugging Face Hub"):
        pretrained.create(5, "resnet18", "hub")


def test_top_k_is_clamped_to_the_number_of_classes():
    metrics = SINGLE.metrics(2)
    assert {key: float(metric(torch.eye(2), torch.tensor([0, 1]))) for key, metric in metrics.items()} == {
        "top1": 1,
        "top3": 1,
        "top5": 1,
    }


def test_top1_averages_over_images_not_classes():
    metric = SINGLE.metrics(3)["top1"]
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 0]), 3).float()
    assert float(metric(logits, torch.tensor([0, 0, 0, 1]))) == 0.75


def _classifier(**arguments) -> classifier.Classifier:
    net = pretrained.create(4, "tf_efficientnet_lite0")
    return classifier.Classifier(net, 4, [0.5] * 3, [0.5] * 3, SINGLE, lr=1e-3, **arguments)


GPU_PRESETS = ("resnet50", "convnext_tiny", "efficientnetv2_s", "dinov2_s")


@pytest.mark.parametrize("name", GPU_PRESETS)
def test_a_gpu_preset_is_built_and_takes_a_step(name):
    pack = SimpleNamespace(
        classes=["a", "b", "c"], species=lambda: [""] * 3, summary={"max_side": 96}, task=SINGLE
    )
    # Its weights need the hub; random weights and small images are enough to test shapes.
    cfg = config.compose(f"model={name}", "model.net.weights=null", "model.input.size=70")
    training = training_build.build(cfg, pack)
    model = training.model
    assert None not in vars(training.card.input).values()
    groups = model.parameter_groups()
    assert min(group["lr"] for group in groups) < max(group["lr"] for group in groups)
    images = torch.randint(0, 255, (2, 70, 70, 3), dtype=torch.uint8)
    assert pretrained.pooled_features(model.net, model.normalise(images)).shape == (
        2,
        model.net.get_classifier().in_features,
    )
    before = model.net.get_classifier().weight.clone()
    torch.nn.functional.cross_entropy(model.train()(images), torch.tensor([0, 2])).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(before, model.net.get_classifier().weight)


def test_class_weights_are_balanced_and_average_1_per_image():
    targets = np.array([0] * 6 + [1] * 3 + [2])
    weights = np.array(SINGLE.class_weights(targets, 3))
    assert np.allclose(weights * np.bincount(targets), 10 / 3)
    assert weights[targets].mean() == pytest.approx(1)


def test_class_weights_scale_the_loss():
    images = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)
    labels = torch.tensor([0, 0, 0, 1])

    def loss(weights):
        torch.manual_seed(0)
        model = classifier.Classifier(
            scratch.ScratchCNN(2, [8], [1]), 2, [0.5] * 3, [0.5] * 3, SINGLE, class_weights=weights
        )
        model.log = lambda *_, **__: None
        return model.eval().training_step((images, labels), 0).item()

    assert loss(None) == pytest.approx(loss([1.0, 1.0]))
    assert loss([2.0, 2.0]) == pytest.approx(2 * loss(None))
    assert loss([0.0, 1.0]) < loss(None)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_images_without_a_label_are_trained_toward_uniform_probabilities(cutmix):
    images = torch.randint(0, 255, (6, 32, 32, 3), dtype=torch.uint8)
    torch.manual_seed(0)
    model = classifier.Classifier(
        scratch.ScratchCNN(3, [8], [1]), 3, [0.5] * 3, [0.5] * 3, SINGLE, cutmix=cutmix, label_smoothing=0.1
    ).eval()

    def loss(count, labels):
        torch.manual_seed(1)
        return model.training_step((images[:count], torch.tensor(labels)), 0).item()

    with torch.no_grad():
        uniform = -model(images[4:]).log_softmax(dim=1).mean(dim=1).sum().item()
    assert loss(6, [0, 1, 2, 0]) == pytest.approx((4 * loss(4, [0, 1, 2, 0]) + uniform) / 6, rel=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixup_and_cutmix_accept_an_integer_alpha(kind):
    model = classifier.Classifier(
        scratch.ScratchCNN(3, [8], [1]), 3, [0.5] * 3, [0.5] * 3, SINGLE, **{kind: 1}
    ).eval()
    model.log = lambda *_, **__: None
    images = torch.randint(0, 255, (6, 32, 32, 3), dtype=torch.uint8)
    assert model.training_step((images, torch.tensor([0, 1, 2, 0, 1, 2])), 0).isfinite()


def test_a_balanced_head_finds_more_of_the_small_class():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 200 + [1] * 10)
    features = (rng.normal(size=(210, 4)) + labels[:, None]).astype(np.float32)

    def recall(balanced):
        weight, bias, _ = probe.fit_head((features, labels), (features, labels), [1.0], SINGLE, balanced)
        return ((features @ weight.T + bias).argmax(axis=1) == 1)[labels == 1].mean()

    assert recall(True) > recall(False)


def test_layer_decay_lowers_the_rate_of_early_layers():
    model = _classifier(layer_decay=0.75)
    groups = model.parameter_groups()
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    stem, head = rate[id(model.net.conv_stem.weight)], rate[id(model.net.classifier.weight)]
    assert head == pytest.approx(1e-3)
    assert stem < head / 2


def test_frozen_batchnorm_keeps_its_statistics_in_training():
    for freeze in (True, False):
        model = _classifier(freeze_batchnorm=freeze).train()
        before = model.net.bn1.running_mean.clone()
        model(torch.randint(0, 255, (4, 64, 64, 3), dtype=torch.uint8))
        assert torch.equal(before, model.net.bn1.running_mean) == freeze


def test_a_probes_head_works_on_raw_features():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    features = (rng.normal(size=(120, 8)) * 5 + 3 + 4 * labels[:, None] * rng.normal(size=8)).astype(
        np.float32
    )
    weight, bias, rows = probe.fit_head((features, labels), (features, labels), [1e-3, 1.0], SINGLE)
    head = torch.nn.Linear(8, 3)
    probe.set_head(head, weight, bias)
    found = head(torch.from_numpy(features)).argmax(dim=1).numpy()
    assert (found == labels).mean() == max(row["val/top1"] for row in rows) > 0.9


def test_a_probe_of_two_classes_has_two_outputs():
    features = np.array([[0.0], [1.0], [10.0], [11.0]], dtype=np.float32)
    weight, bias, _ = probe.fit_head(
        (features, np.array([0, 0, 1, 1])), (features, np.array([0, 0, 1, 1])), [1.0], SINGLE
    )
    assert weight.shape == (2, 1)
    assert ((features @ weight.T + bias).argmax(axis=1) == [0, 0, 1, 1]).all()


def test_a_saved_model_predicts_the_same_in_both_memory_layouts(tmp_path):
    images = torch.randint(0, 255, (3, 40, 40, 3), dtype=torch.uint8)
    for layout in (False, True):
        card = portable.ModelCard(
            name="x",
            data="x",
            drawings=True,
            classes=["a", "b", "c", "d"],
            species=[""] * 4,
            net={"_target_": "models.scratch.ScratchCNN", "widths": [8, 16], "depths": [1, 1]},
            input=portable.Preprocessing(
                128, 40, "bilinear", "squash", 1.0, mean=[0.4, 0.5, 0.6], std=[0.2, 0.2, 0.2]
            ),
            channels_last=layout,
            flip=False,
            temperature=1.5,
            unsure_below=0.0,
            task="single_label",
            thresholds=[],
        )
        model = classifier.build(card).eval()
        (tmp_path / str(layout)).mkdir()
        classifier.save(model, card, tmp_path / str(layout))
        loaded, read = classifier.load(tmp_path / str(layout))
        assert torch.equal(model(images), loaded(images))
        assert read == card


@pytest.mark.parametrize(
    ("backbone", "suggestion"),
    [
        ("resnet19", "near: resnet18, "),
        ("ResNet50", "near: resnet50, "),
        ("convnext-tiny", "near: convnext_tiny, "),
        ("dino", "dinov2"),
        ("resnet50.no_such", "it has resnet50.a1_in1k, "),
    ],
)
def test_an_unknown_backbone_is_an_error_that_suggests_others(backbone, suggestion):
    with pytest.raises(build.WeightsError, match=f"'{backbone}'") as error:
        pretrained.create(5, backbone)
    assert suggestion in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def hub_at(monkeypatch, tmp_path):
    """Points the hub's client to a port of this machine, with an empty cache."""
    from huggingface_hub import constants

    def point_to(port: int) -> None:
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    return point_to


def _hub_error(caplog) -> str:
    with pytest.raises(build.WeightsError, match="no weights of 'resnet18' from the Hugging") as error:
        pretrained.create(5, "resnet18", "hub")
    assert "\n" not in str(error.value)
    assert "model.net.weights=package" in str(error.value)
    assert not caplog.records
    return str(error.value)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503, 200])
def test_a_hub_with_an_unusable_answer_is_asked_once(hub_at, caplog, status):
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    requests = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/api/models/"):  # not the client's own requests
                requests.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"{}")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # looks for its end
    try:
        hub_at(server.server_port)
        message = _hub_error(caplog)
    finally:
        server.shutdown()
    assert len(requests) == 1
    assert str(status) in message or (status == 200 and "is not a hub" in message)


def test_a_hub_that_refuses_or_never_answers_is_a_one_line_error(hub_at, caplog, monkeypatch):
    import socket

    hub_at(9)
    assert "does not answer" in _hub_error(caplog)
    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.4)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hub_at(silent.getsockname()[1])
        assert "does not answer" in _hub_error(caplog)


def test_a_hanging_request_to_the_hub_times_out(monkeypatch):
    import threading

    from huggingface_hub import HfApi

    monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: threading.Event().wait())
    assert hub._problem("timm/resnet10t").endswith("does not answer within 0.01 s")


def test_offline_only_the_hubs_cache_is_used(hub_at, caplog, monkeypatch):
    from huggingface_hub import constants

    hub_at(9)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, and its cache holds no such weights" in _hub_error(caplog)
    assert constants.HF_HUB_OFFLINE
