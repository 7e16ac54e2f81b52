"""Multi-stage back-propagation in two processes: the weights of one process that sees both slides."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from wsipipe.models.map_pieces import MapPiece
from wsipipe.models.multistage import multistage_backward

SHAPE = (4, 5)
STEPS, SLIDES = 3, 2  # slides per process and step


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return encoder.double(), nn.Conv2d(6, 1, 3, padding=1).double()


def slide(rank: int, step: int, number: int) -> list[MapPiece]:
    """Patches of a slide, more of them in the second process."""
    generator = torch.Generator().manual_seed(100 * step + 10 * number + rank)
    count = 9 + 8 * rank
    pixels = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    cells = torch.randperm(20, generator=generator)[:count]
    corners = torch.stack([cells // SHAPE[1], cells % SHAPE[1]], dim=1)
    return [MapPiece(pixels[i : i + 4], corners[i : i + 4]) for i in range(0, count, 4)]


def loss_of(head: nn.Module, features: Tensor) -> Tensor:
    return F.softplus(head(features)).mean()


def optimizer_of(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], lr=0.5, momentum=0.9)


def run_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for training in (True, False):
        torch.save(train_together(rank, training=training), folder / f"{rank}-{training}.pt")
    torch.distributed.destroy_process_group()
    # Threads of gloo outlive their group, and end a process in SIGABRT now and then when the interpreter shuts down
    # around them (pytorch/pytorch#179291). All there is to keep is on disk: leave without shutting down.
    os._exit(0)


def train_together(rank: int, *, training: bool) -> dict[str, Tensor]:
    encoder, head = (DistributedDataParallel(module) for module in networks())
    if rank == 1:  # statistics that have drifted apart are those of the first process again
        encoder.module[1].running_mean.add_(1.0)
    encoder.train(training)
    optimizer = optimizer_of(encoder, head)
    for step in range(STEPS):
        optimizer.zero_grad()
        for number in range(SLIDES):
            last = number == SLIDES - 1
            with nullcontext() if last else encoder.no_sync(), nullcontext() if last else head.no_sync():
                multistage_backward(encoder, slide(rank, step, number), lambda x: loss_of(head, x), shape=SHAPE)
        optimizer.step()
    return {**encoder.module.state_dict(prefix="encoder."), **head.module.state_dict(prefix="head.")}


def train_alone(*, training: bool) -> dict[str, Tensor]:
    """Both processes' slides by ordinary back-propagation; the mean of the losses, as processes average gradients."""
    encoder, head = networks()
    encoder.train(training)
    optimizer = optimizer_of(encoder, head)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(2):
            for number in range(SLIDES):
                features = torch.zeros(6, *SHAPE, dtype=torch.float64)
                for piece in slide(rank, step, number):
                    rows, cols = piece.corners.T
                    features = features.index_put(
                        (torch.arange(6)[:, None], rows, cols), encoder(piece.pixels).T, accumulate=True
                    )
                (loss_of(head, features[None]) / 2).backward()
        optimizer.step()
    return {**encoder.state_dict(prefix="encoder."), **head.state_dict(prefix="head.")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes came to. Over 5 s, because each has to import torch."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(run_process, (folder,), nprocs=2)
    return folder


@pytest.mark.parametrize("training", [True, False])
def test_two_processes_give_the_weights_of_one(folder, training):
    theirs = train_alone(training=training)
    start = networks()[0].state_dict(prefix="encoder.")
    assert (theirs["encoder.0.weight"] - start["encoder.0.weight"]).abs().max() > 0.01
    for rank in range(2):
        ours = torch.load(folder / f"{rank}-{training}.pt")
        for name, value in theirs.items():
            # In training each process counts its own batches, as with ordinary back-propagation.
            if not training or ("running" not in name and "tracked" not in name):
                torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-12)
