"""ONNX files, with real graphs."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from patchloom.errors import ModelInputError, ModelLoadError, UsageError
from patchloom.models.load import load_model
from patchloom.models.onnx_file import external_files

from . import graphs


def test_graph_says_what_it_takes(tmp_path):
    info = load_model(graphs.convolution(tmp_path / "net.onnx", shape=["N", 3, 64, 48])).info
    assert (info.name, info.dtype, info.channels, info.patch, info.ndim) == ("net.onnx", np.float32, 3, (64, 48), 2)
    assert (info.batch, info.channels_last, info.concurrent, info.device) == (None, False, True, "cpu")


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [(["N", 3, "Y", "X"], False), (["N", "Y", "X", 3], True), (["N", 256, 256, 3], True), (["N", 128, 64, 64], False),
     (["N", 3, 256, 256], False), (["N", "a", "b", "d"], False), (["N", "h", "w", "channels"], True),
     (["N", "C", 64, 64], False), (["N", 12, "Y", "X"], False), (["N", 8, 64, 64, 1], True),
     (["N", "Y", "X", 200], False), (["N", "Y", 256, 3], True)],
)
def test_sizes_and_names_of_axes_tell_where_the_channels_are(tmp_path, shape, channels_last):
    assert load_model(graphs.identity(tmp_path / "net.onnx", shape)).info.channels_last is channels_last


def test_metadata_overrules_what_sizes_suggest(tmp_path):
    path = graphs.identity(tmp_path / "net.onnx", ["N", 3, 3, 3], metadata={"layout": "NHWC"})
    assert load_model(path).info.channels_last is True
    bad = graphs.identity(tmp_path / "bad.onnx", ["N", 3, 3, 3], metadata={"axes": "HWNC"})
    with pytest.raises(ModelLoadError, match="axes='HWNC'"):
        load_model(bad)


@pytest.mark.parametrize("text", ["stroma, tumour", '["stroma", "tumour"]'])
def test_classes_are_read_from_metadata(tmp_path, text):
    path = graphs.convolution(tmp_path / "net.onnx", metadata={"classes": text})
    assert load_model(path).info.classes == ("stroma", "tumour")


def test_maps_of_channels_last_models_come_channels_first(tmp_path):
    batch = np.random.default_rng(0).random((2, 8, 9, 3)).astype(np.float32)
    model = load_model(graphs.channels_last(tmp_path / "net.onnx"))
    assert model.predict(batch)["scores"].shape == (2, 2, 8, 9)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(TensorProto.FLOAT16, np.float16), (TensorProto.DOUBLE, np.float64), (TensorProto.UINT8, np.uint8),
     (TensorProto.INT64, np.int64), (TensorProto.UINT16, np.uint16)],
)
def test_other_input_types_are_taken_as_declared(tmp_path, element, dtype):
    model = load_model(graphs.identity(tmp_path / "net.onnx", ["N", 1, "Y", "X"], element))
    batch = np.arange(2 * 4 * 5).reshape(2, 1, 4, 5).astype(dtype)
    assert model.info.dtype == dtype
    np.testing.assert_array_equal(model.predict(batch)["same"], batch)


def test_outputs_become_heads_with_safe_names(tmp_path):
    heads = load_model(graphs.two_heads(tmp_path / "net.onnx")).predict(np.ones((2, 3, 8, 8), np.float32))
    shapes = {name: array.shape for name, array in heads.items()}
    assert shapes == {"model_map_0": (2, 4, 8, 8), "model_score_0": (2, 4)}


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((1, 4, 64, 64), np.float32, "takes 3 channels, and the patches have 4"),
     ((1, 3, 32, 64), np.float32, "takes patches of 64 x 64 pixels only, and these are 32 x 64"),
     ((1, 3, 64, 64), np.float64, "takes float32, and the patches are float64"),
     ((1, 3, 4, 64, 64), np.float32, "takes 2-D patches, and these are 3-D")],
)
def test_a_batch_that_does_not_fit_is_refused_in_plain_words(tmp_path, shape, dtype, message):
    model = load_model(graphs.convolution(tmp_path / "net.onnx", shape=["N", 3, 64, 64]))
    with pytest.raises(ModelInputError, match=message):
        model.predict(np.zeros(shape, dtype))


def test_a_fixed_batch_is_named(tmp_path):
    model = load_model(graphs.convolution(tmp_path / "net.onnx", shape=[4, 3, 64, 64]))
    with pytest.raises(ModelInputError, match="exactly 4 patches a call, and these are 3"):
        model.predict(np.zeros((3, 3, 64, 64), np.float32))


def test_what_the_runtime_stumbles_over_is_told_without_its_codes(tmp_path, capfd):
    weights = {"w": np.zeros((1, 1, 8, 8), np.float32)}
    node = helper.make_node("Add", ["pixels", "w"], ["sum"])
    inputs, outputs = [graphs.tensor("pixels", ["N", 1, "Y", "X"])], [graphs.tensor("sum", None)]
    model = load_model(graphs.save(tmp_path / "net.onnx", [node], inputs, outputs, weights=weights))
    with pytest.raises(ModelInputError, match=r"net\.onnx fails on 1 patch of 1 channel, 5 x 5 pixels") as caught:
        model.predict(np.zeros((1, 1, 5, 5), np.float32))
    assert "ONNXRuntimeError" not in caught.value.message
    assert "/onnxruntime" not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_too_large_a_batch_is_a_memory_error(tmp_path):
    weights = {"shape": np.array([1, 1 << 30, 1 << 14, 8], np.int64)}
    node = helper.make_node("Expand", ["pixels", "shape"], ["large"])
    inputs, outputs = [graphs.tensor("pixels", ["N", 1, "Y", "X"])], [graphs.tensor("large", None)]
    model = load_model(graphs.save(tmp_path / "net.onnx", [node], inputs, outputs, weights=weights))
    with pytest.raises(MemoryError):
        model.predict(np.zeros((1, 1, 1, 8), np.float32))


@pytest.mark.parametrize("content", [b"", b"this is no protocol buffer at all", b"\x08\x08\x12\x03abc" * 9])
def test_a_damaged_file_is_named_and_nothing_is_printed(tmp_path, capfd, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"net\.onnx"):
        load_model(path)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_file_is_damaged(tmp_path):
    path = graphs.convolution(tmp_path / "net.onnx", out=64)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ModelLoadError, match="damaged"):
        load_model(path)


def test_unknown_operators_are_a_load_error(tmp_path, capfd):
    node = helper.make_node("Custom", ["pixels"], ["out"], domain="example.org")
    graph = helper.make_graph([node], "g", [graphs.tensor("pixels", ["N", 1, "Y", "X"])], [graphs.tensor("out", None)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example.org", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "net.onnx")
    with pytest.raises(ModelLoadError, match="Custom"):
        load_model(tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")


def test_several_inputs_are_named(tmp_path):
    inputs = [graphs.tensor("pixels", ["N", 1, "Y", "X"]), graphs.tensor("where", ["N", 2])]
    node = helper.make_node("Identity", ["pixels"], ["out"])
    path = graphs.save(tmp_path / "net.onnx", [node], inputs, [graphs.tensor("out", None)])
    with pytest.raises(ModelLoadError, match=r"2 inputs: pixels .*, where"):
        load_model(path)


def test_input_that_is_no_batch_of_patches_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match=r"pixels of shape \['N', 10\]"):
        load_model(graphs.identity(tmp_path / "net.onnx", ["N", 10]))


def test_identity_is_that_of_the_bytes(tmp_path):
    a = load_model(graphs.convolution(tmp_path / "a.onnx")).info.identity
    b = load_model(graphs.convolution(tmp_path / "b.onnx")).info.identity
    (tmp_path / "c.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    assert a != b
    assert a == load_model(tmp_path / "c.onnx").info.identity


def external(tmp_path, location="weights.bin"):
    return graphs.convolution(
        tmp_path / "net.onnx", out=64, save_as_external_data=True, location=location, size_threshold=0
    )


def test_weights_in_another_file_are_found_and_count(tmp_path):
    path = external(tmp_path)
    assert external_files(path) == ((tmp_path / "weights.bin").resolve(),)
    before = load_model(path).info.identity
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert load_model(path).info.identity != before


def test_weights_outside_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder)
    (tmp_path / "secret1.bin").write_bytes((folder / "weights.bin").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = "../secret1.bin" if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadError, match="outside its folder"):
        load_model(path)


def test_missing_weights_are_named(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelLoadError, match=r"weights in weights\.bin, which is missing"):
        load_model(path)


def test_devices_that_are_not_there_are_usage_errors(tmp_path):
    path = graphs.convolution(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="device 'gpu' is unknown"):
        load_model(path, device="gpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UsageError, match="no CUDA"):
            load_model(path, device="cuda:0")


def test_torch_is_not_imported_for_an_onnx_file(tmp_path):
    import subprocess

    path = graphs.convolution(tmp_path / "net.onnx")
    code = ("import sys; from patchloom.models.load import load_model; load_model(sys.argv[1]); "
            "print('torch' in sys.modules, 'onnx' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("False False", "")
