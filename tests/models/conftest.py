"""PyTorch files that several tests load."""

import pytest


@pytest.fixture
def exported(tmp_path):
    """Exported program that takes any number of 3-channel patches of any size."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1)).eval()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(module, (torch.zeros(2, 3, 32, 48),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    return path
