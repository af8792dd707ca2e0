"""PyTorch modules, live and out of files."""

import json
import pickle
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest

from patchloom.errors import (
    ModelError,
    ModelInputError,
    ModelLoadError,
    ModelNotFoundError,
    PickleRefusedError,
    UsageError,
)
from patchloom.models.load import load_model, with_steps
from patchloom.models.steps import Preprocess, Reduce, Steps
from patchloom.models.torch import TorchModel

torch = pytest.importorskip("torch")
from patchloom.models import torch_steps  # noqa: E402
from patchloom.models.torch_archive import file_kind  # noqa: E402

BATCH = np.random.default_rng(0).random((2, 3, 16, 20)).astype(np.float32)


class Net(torch.nn.Module):
    """Two heads; behaves otherwise in training."""

    classes = ("stroma", "tumour")

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4))
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, pixels):
        features = self.dropout(self.layers(pixels))
        return {"map": features, "score": features.mean((2, 3))}


class Failing(torch.nn.Module):
    def forward(self, pixels):
        raise KeyError("lost")


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("import sys; sys.modules['patchloom_was_owned'] = sys",))


def expected(module, batch=BATCH):
    with torch.inference_mode():
        result = module.eval()(torch.from_numpy(batch))
    return {name: value.numpy() for name, value in result.items()}


def assert_heads_equal(found, wanted):
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)


@pytest.fixture(autouse=True)
def _not_owned():
    yield
    assert "patchloom_was_owned" not in sys.modules


@pytest.fixture
def arch(tmp_path, monkeypatch):
    """`Net` under a name that arch can give."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "patchloom_test_nets", sys.modules[__name__])
    return "patchloom_test_nets:Net"


def test_a_live_module_says_what_its_layers_say():
    info = load_model(Net()).info
    assert (info.name, info.dtype, info.ndim, info.classes) == ("Net", np.float32, 2, ("stroma", "tumour"))
    assert (info.concurrent, info.memory_format, info.on_device) == (True, "channels_last", False)


def test_a_live_module_is_run_in_evaluation_mode_and_stays_in_training():
    module = Net().train()
    strides = module.layers[0].weight.stride()
    found = load_model(module).predict(BATCH)
    assert module.training and module.dropout.training
    assert module.layers[0].weight.stride() == strides
    assert int(module.layers[1].num_batches_tracked) == 0
    assert_heads_equal(found, expected(module))


def test_the_copy_in_evaluation_mode_shares_the_weights():
    module = Net().train()
    model = load_model(module)
    with torch.no_grad():
        module.layers[0].weight.zero_()
        module.layers[0].bias.zero_()
    assert np.abs(model.predict(BATCH)["map"]).max() == 0


class Uncopyable(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.dropout = torch.nn.Dropout(0.9)

    def forward(self, pixels):
        return self.dropout(pixels)


def test_a_module_that_cannot_be_copied_is_switched_for_each_call():
    module = Uncopyable()
    model = load_model(module)
    np.testing.assert_array_equal(model.predict(BATCH)["prediction"], BATCH)
    assert module.training and module.dropout.training
    assert model.info.concurrent is False


def test_identity_follows_classes_options_and_weights():
    def identity(*layers):
        torch.manual_seed(0)
        return load_model(torch.nn.Sequential(*[make() for make in layers])).info.identity

    def convolution():
        return torch.nn.Conv2d(3, 2, 3)

    same = identity(convolution, torch.nn.ReLU)
    assert same == identity(convolution, torch.nn.ReLU)
    assert same != identity(convolution, torch.nn.Sigmoid)
    assert same != identity(lambda: torch.nn.Conv2d(3, 2, 3, dilation=2), torch.nn.ReLU)
    module = Net()
    before = load_model(module).info.identity
    with torch.no_grad():
        module.layers[0].weight[0, 0, 0, 0] += 1e-3
    assert load_model(module).info.identity != before


def test_threads_are_set_for_the_call_only():
    seen = []

    class Counting(torch.nn.Module):
        def forward(self, pixels):
            seen.append(torch.get_num_threads())
            return pixels

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = load_model(Counting(), threads=1)
        worker = threading.Thread(target=model.predict, args=(BATCH,))
        worker.start()
        worker.join()
        model.predict(BATCH)
        later = []
        worker = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        worker.start()
        worker.join()
        assert (seen, later, torch.get_num_threads()) == ([1, 1], [2], 2)
    finally:
        torch.set_num_threads(before)


def test_bfloat16_modules_take_and_give_float32():
    model = load_model(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)).to(torch.bfloat16))
    assert model.info.dtype == np.float32
    assert model.predict(BATCH)["prediction"].dtype == np.float32


def test_double_modules_take_float64():
    model = load_model(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)).double())
    assert model.info.dtype == np.float64
    assert model.predict(BATCH.astype(np.float64))["prediction"].dtype == np.float64


def test_a_module_without_weights_takes_the_images_dtype():
    model = load_model(torch.nn.MaxPool2d(2))
    assert model.info.dtype is None
    pixels = np.random.default_rng(0).integers(0, 255, (1, 3, 8, 8)).astype(np.uint8)
    assert model.predict(pixels)["prediction"].shape == (1, 3, 4, 4)


def test_errors_of_the_module_are_told_apart():
    with pytest.raises(ModelInputError, match="takes 3 channels, and the patches have 4"):
        load_model(Net()).predict(np.zeros((1, 4, 8, 8), np.float32))
    with pytest.raises(ModelInputError, match="fails on 1 patch of 3 channels, 1 x 1 pixels"):
        load_model(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3))).predict(np.zeros((1, 3, 1, 1), np.float32))
    with pytest.raises(ModelError, match="Failing raises KeyError"):
        load_model(Failing()).predict(BATCH)


def test_running_out_of_memory_is_a_memory_error():
    class Hungry(torch.nn.Module):
        def forward(self, pixels):
            return torch.empty(1 << 50)

    class Full(torch.nn.Module):
        def forward(self, pixels):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    for module in (Hungry(), Full()):
        with pytest.raises(MemoryError):
            load_model(module).predict(BATCH)


def saved_script(module, path):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(module).save(path)
    return path


def test_torchscript_is_loaded_without_the_class(tmp_path):
    path = saved_script(Net(), tmp_path / "net.pt")
    assert file_kind(path) == "torchscript"
    model = load_model(path)
    assert (model.info.name, model.info.ndim, model.info.memory_format) == ("net.pt", 2, "channels_last")
    assert_heads_equal(model.predict(BATCH), expected(Net()))
    with pytest.raises(ModelInputError, match="takes 3 channels, and the patches have 4"):
        model.predict(np.zeros((1, 4, 8, 8), np.float32))


def test_a_live_scripted_module_is_a_model():
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        module = torch.jit.script(Net())
    model = load_model(module)
    assert model.info.identity.startswith("sha256:")
    assert_heads_equal(model.predict(BATCH), expected(Net()))
    assert module.training


def test_an_exported_program_says_what_it_takes(exported):
    info = load_model(exported).info
    assert (info.channels, info.ndim, info.patch, info.batch, info.dtype) == (3, 2, None, None, np.float32)
    assert info.memory_format == "channels_last"


def test_an_exported_program_with_fixed_sizes_says_so(tmp_path):
    program = torch.export.export(Net().eval(), (torch.zeros(2, 3, 16, 20),))
    torch.export.save(program, tmp_path / "net.pt2")
    model = load_model(tmp_path / "net.pt2")
    assert (model.info.batch, model.info.patch, model.info.channels) == (2, (16, 20), 3)
    assert_heads_equal(model.predict(BATCH), expected(Net()))
    with pytest.raises(ModelInputError, match="16 x 20 pixels only"):
        model.predict(np.zeros((2, 3, 16, 16), np.float32))


def test_an_exported_program_is_known_by_content_not_by_name(exported, tmp_path):
    other = tmp_path / "renamed.pt"
    other.write_bytes(exported.read_bytes())
    assert load_model(other).info.channels == 3


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_a_state_dict_is_loaded_into_its_architecture(tmp_path, arch, legacy, nested):
    weights = Net().state_dict()
    content = weights if nested is None else {nested: weights, "epoch": 3}
    path = tmp_path / "net.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    model = load_model(path, arch=arch)
    assert_heads_equal(model.predict(BATCH), expected(Net()))
    assert model.info.identity.startswith("sha256:")


def test_weights_saved_under_data_parallel_fit(tmp_path, arch):
    torch.save({f"module.{name}": tensor for name, tensor in Net().state_dict().items()}, tmp_path / "net.pt")
    assert_heads_equal(load_model(tmp_path / "net.pt", arch=arch).predict(BATCH), expected(Net()))


def test_safetensors_are_loaded_into_their_architecture(tmp_path, arch):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(Net().state_dict(), tmp_path / "net.safetensors")
    assert_heads_equal(load_model(tmp_path / "net.safetensors", arch=arch).predict(BATCH), expected(Net()))


def test_a_state_dict_without_architecture_asks_for_it(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    with pytest.raises(ModelLoadError, match="weights without the network") as caught:
        load_model(tmp_path / "net.pt")
    assert "--arch" in caught.value.hint


def test_a_state_dict_that_does_not_fit_names_what_is_amiss(tmp_path, arch):
    weights = Net().state_dict()
    torch.save({name: tensor for name, tensor in weights.items() if "weight" not in name}, tmp_path / "less.pt")
    torch.save({**weights, "layers.0.weight": torch.zeros(1, 2, 3, 3)}, tmp_path / "shape.pt")
    with pytest.raises(ModelLoadError, match=r"it lacks layers\.0\.weight, layers\.1\.weight"):
        load_model(tmp_path / "less.pt", arch=arch)
    with pytest.raises(ModelLoadError, match="size mismatch"):
        load_model(tmp_path / "shape.pt", arch=arch)
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(ModelNotFoundError, match="no module 'absent'"):
        load_model(tmp_path / "net.pt", arch="absent:Net")
    with pytest.raises(ModelLoadError, match="builds a"):
        load_model(tmp_path / "net.pt", arch="builtins:dict")


def test_arch_applies_to_state_dicts_only(tmp_path, arch):
    with pytest.raises(UsageError, match="arch does not apply"):
        load_model(Net(), arch=arch)
    with pytest.raises(UsageError, match="arch does not apply"):
        load_model(saved_script(Net(), tmp_path / "net.pt"), arch=arch)


def test_a_pickled_module_is_refused_unless_it_is_allowed(tmp_path):
    torch.save(Net(), tmp_path / "net.pt")
    with pytest.raises(PickleRefusedError) as caught:
        load_model(tmp_path / "net.pt")
    assert "--allow-pickle" in caught.value.hint
    assert_heads_equal(load_model(tmp_path / "net.pt", allow_pickle=True).predict(BATCH), expected(Net()))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_does_not_run(tmp_path, legacy):
    torch.save({"weights": Evil()}, tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(PickleRefusedError):
        load_model(tmp_path / "net.pt", arch="builtins:dict")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises((PickleRefusedError, ModelLoadError)):
        load_model(tmp_path / "plain.pth")


def rewritten(path, change):
    """Copy of an archive, each entry's bytes passed through `change` (name, bytes) -> (name, bytes)."""
    target = path.with_name(f"rewritten{path.suffix}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(*change(name, source.read(name)))
    return target


def edited(path, suffix, edit):
    """Copy of an exported program with the JSON of one entry edited in place."""

    def change(name, data):
        if name.endswith(suffix):
            document = json.loads(data)
            edit(document)
            data = json.dumps(document).encode()
        return name, data

    return rewritten(path, change)


def first_node(document):
    return document["graph_module"]["graph"]["nodes"][0]


def set_first_size(document, text):
    sizes = document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
    next(size for size in sizes if "as_expr" in size)["as_expr"]["expr_str"] = text


HOSTILE = {
    "operator": ("model.json", lambda d: first_node(d).update(target="torch.serialization.os.system")),
    "library": ("model.json", lambda d: first_node(d).update(target="torch.ops.load_library")),
    "dunder": ("model.json", lambda d: first_node(d).update(target="torch.ops.aten.__class__.mro")),
    "size": ("model.json", lambda d: set_first_size(d, "exec(chr(49))")),
    "attribute": ("model.json", lambda d: set_first_size(d, "Symbol('s77').func.mro")),
    "weights": ("weights_config.json", lambda d: next(iter(d["config"].values())).update(use_pickle=True)),
    "constants": ("constants_config.json", lambda d: d["config"].update(x={"path_name": "opaque_obj_0"})),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_an_exported_program_that_would_run_code_is_refused(exported, attack):
    suffix, edit = HOSTILE[attack]
    with pytest.raises(PickleRefusedError) as caught:
        load_model(edited(exported, suffix, edit))
    assert "--allow-pickle" in caught.value.hint


def test_hostile_sample_inputs_of_an_exported_program_do_not_run(exported, tmp_path):
    torch.save(Evil(), tmp_path / "evil.pt")
    evil = (tmp_path / "evil.pt").read_bytes()
    path = rewritten(exported, lambda name, data: (name, evil if "sample_inputs" in name else data))
    with pytest.raises(PickleRefusedError, match="more than tensors"):
        load_model(path)


def test_compiled_code_in_an_exported_program_is_refused(exported):
    with zipfile.ZipFile(exported, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(PickleRefusedError, match="compiled code"):
        load_model(exported)


def test_an_innocent_rewritten_archive_is_still_loaded(exported):
    assert load_model(rewritten(exported, lambda name, data: (name, data))).info.channels == 3


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pt2", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"PK\x03\x04 and no more", b"\x80\x02}q\x00.", b"\x08" + b"\0" * 7 + b"{"]
)
def test_damaged_files_are_named_and_nothing_is_printed(tmp_path, capfd, suffix, content):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=f"net{suffix}"):
        load_model(path)
    assert capfd.readouterr() == ("", "")


def test_truncated_files_are_damaged(tmp_path, exported, capfd):
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    script = saved_script(Net(), tmp_path / "script.pt")
    for path in (tmp_path / "net.pt", script, exported):
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(ModelLoadError, match=path.name):
            load_model(path)
    assert capfd.readouterr() == ("", "")


def test_devices_that_are_not_there_are_usage_errors():
    with pytest.raises(UsageError, match="device 'tpu' is unknown"):
        load_model(Net(), device="tpu")
    with pytest.raises(UsageError, match="no such GPU"):
        load_model(Net(), device="cuda:99")


def test_without_torch_the_error_names_the_extra(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"PK")
    code = ("import sys; sys.modules['torch'] = None\nfrom patchloom.models.load import load_model\n"
            "try: load_model(sys.argv[1])\nexcept ImportError as error: print(error)")
    command = [sys.executable, "-c", code, str(tmp_path / "net.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'patchloom[torch]'" in done.stdout


TEXTS = [["softmax"], ["sigmoid"], ["argmax"], ["threshold:0.5"], ["uint8"], ["float16"], ["softmax", "uint8"],
         ["softmax", "argmax", "uint8"], ["sigmoid", "threshold:0.7"]]


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int32])
def test_reductions_of_tensors_equal_those_of_arrays(texts, dtype):
    array = (np.random.default_rng(1).normal(size=(2, 5, 9, 11)) * 2).astype(dtype)
    found = torch_steps.reduce(torch.from_numpy(array), Reduce.of(*texts)).numpy()
    wanted = Reduce.of(*texts)(array)
    assert found.dtype == wanted.dtype
    if texts[-1] in ("softmax", "sigmoid"):
        np.testing.assert_allclose(found, wanted, atol=1e-3 if dtype == np.float16 else 1e-6)
    elif "uint8" in texts and "softmax" in texts:  # a last bit may tip a rounding
        np.testing.assert_allclose(found.astype(int), wanted, atol=1)
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_preprocessing_of_tensors_equals_that_of_arrays(dtype):
    pixels = (np.random.default_rng(1).random((2, 3, 9, 11)) * 255).astype(dtype)
    steps = Preprocess(255, (0.1, 0.2, 0.3), (0.7,))
    wanted = np.empty(pixels.shape, np.float32)
    steps.into(pixels, wanted, channel_axis=1)
    found = torch_steps.preprocess(torch.from_numpy(pixels), steps, torch.float32)
    np.testing.assert_array_equal(found.numpy(), wanted)


def on_device_model(module, steps, device="cpu"):
    """Model as on a GPU; on a CPU the same path without page-locked memory."""
    from dataclasses import replace

    model = load_model(module, device=device)
    info = replace(model.info, on_device=True, memory_format="contiguous")
    return with_steps(TorchModel(model._loaded, info, 1, Steps()), steps)


def check_on_device(device):
    steps = Steps(Preprocess(255, (0.5,), (0.25,)), {"map": Reduce.of("argmax"), "score": Reduce.of("softmax")})
    pixels = (BATCH * 255).astype(np.uint8)
    found = on_device_model(Net(), steps, device).predict(pixels)
    batch = np.empty(pixels.shape, np.float32)
    steps.preprocess.into(pixels, batch, channel_axis=1)
    raw = expected(Net(), batch)
    assert found["map"].dtype == np.uint8
    assert (found["map"] == raw["map"].argmax(1)).mean() > 0.999
    np.testing.assert_allclose(found["score"], Reduce.of("softmax")(raw["score"]), atol=1e-3)


def test_a_model_on_its_device_preprocesses_and_reduces_itself():
    check_on_device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_model_on_a_gpu_preprocesses_and_reduces_itself():
    module = Net()
    check_on_device("cuda:0")
    info = load_model(module).info
    assert (info.device, info.on_device, info.concurrent) == ("cuda:0", True, False)
    assert next(module.parameters()).device.type == "cpu"
