"""Multi-stage back-propagation against ordinary back-propagation through the same batches."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsipipe.errors import NumericsError
from wsipipe.models.map_pieces import MapPiece
from wsipipe.models.multistage import StagedMap, multistage_backward
from wsipipe.models.resnet import build_resnet

ROWS, COLS, DIM = 6, 7, 5


def encoder(kind: str = "patch", *, dropout: float = 0.0, norm: bool = True, dtype=torch.float64) -> nn.Module:
    """Two strided convolutions: 4 px per cell, and each cell sees 3 px beyond its own."""
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Conv2d(8, DIM, 3, stride=2, padding=1),
    ]
    if kind == "patch":
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers).to(dtype)


def head(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(DIM, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 1)).to(dtype)


def criterion(network: nn.Module, dtype=torch.float64) -> Callable[[Tensor], Tensor]:
    wanted = (torch.arange(ROWS * COLS).view(1, 1, ROWS, COLS) % 3 == 0).to(dtype)
    return lambda features: F.binary_cross_entropy_with_logits(network(features), wanted.to(features.device))


def patches(*, batch: int = 4, count: int = ROWS * COLS - 3, side: int = 12, dtype=torch.float64) -> list[MapPiece]:
    """One patch per cell, in random order; the last cells of the map hold none."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(count, 3, side, side, generator=generator, dtype=dtype)
    cells = torch.randperm(count, generator=generator)
    corners = torch.stack([cells // COLS, cells % COLS], dim=1)
    return [MapPiece(pixels[i : i + batch], corners[i : i + batch]) for i in range(0, count, batch)]


def image_under_map() -> Tensor:
    """Picture under the map with a margin of one cell on every side."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(3, 4 * (ROWS + 2), 4 * (COLS + 2), generator=generator, dtype=torch.float64)


def tiles() -> list[MapPiece]:
    """Tiles of 3 x 4 cells, the last ones narrower, two to a piece where sizes allow, with a halo of one cell."""
    image, pieces = image_under_map(), []
    for left, width in ((0, 4), (4, 3)):
        cut = [image[:, 4 * top : 4 * (top + 5), 4 * left : 4 * (left + width + 2)] for top in (0, 3)]
        pieces.append(MapPiece(torch.stack(cut), torch.tensor([[0, left], [3, left]]), halo=1))
    return pieces


def ordinary(network: nn.Module, pieces: list[MapPiece]) -> Tensor:
    """Map (1, dim, rows, cols) with a graph through everything; cell by cell, so that nothing is shared with ours."""
    cells: dict[tuple[int, int], Tensor] = {}
    for piece in pieces:
        features = network(piece.pixels.to(next(network.parameters()).device))
        for values, (top, left) in zip(features, piece.corners.tolist(), strict=True):
            block = values[:, None, None] if values.ndim == 1 else values
            block = block[:, piece.halo : block.shape[1] - piece.halo, piece.halo : block.shape[2] - piece.halo]
            for row in range(block.shape[1]):
                for col in range(block.shape[2]):
                    cells[top + row, left + col] = block[:, row, col]
    empty = torch.zeros_like(cells[0, 0])
    every = [cells.get((row, col), empty) for row in range(ROWS) for col in range(COLS)]
    return torch.stack(every, dim=1).view(1, DIM, ROWS, COLS)


def gradients(*modules: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for module in modules for p in module.parameters()]


def assert_same(ours: list[Tensor | None], theirs: list[Tensor | None], tolerance: float = 1e-10) -> None:
    assert [value is None for value in ours] == [value is None for value in theirs]
    assert any(value is not None for value in theirs)
    scale = max(float(value.abs().max()) for value in theirs if value is not None)
    for a, b in zip(ours, theirs, strict=True):
        if a is not None and b is not None:
            # A gradient that is 0 but for rounding (a bias before a batch norm) is measured by the others.
            assert (a - b).abs().max() <= tolerance * max(float(b.abs().max()), 1e-3 * scale)


def compare(network: nn.Module, pieces: list[MapPiece], *, calls: int = 1, tolerance: float = 1e-10) -> None:
    """Gradients, loss, buffers and the random numbers that follow are those of ordinary back-propagation."""
    dtype = pieces[0].pixels.dtype
    device = next(network.parameters()).device
    other, heads = copy.deepcopy(network), [head(dtype).to(device), head(dtype).to(device)]
    torch.manual_seed(5)
    ours = [multistage_backward(network, pieces, criterion(heads[0], dtype), shape=(ROWS, COLS)) for _ in range(calls)]
    following = torch.rand(3, device=device)
    torch.manual_seed(5)
    theirs = []
    for _ in range(calls):
        loss = criterion(heads[1], dtype)(ordinary(other, pieces))
        loss.backward()
        theirs.append(loss.detach())
    assert torch.equal(following, torch.rand(3, device=device))
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=0)
    assert_same(gradients(network, heads[0]), gradients(other, heads[1]), tolerance)
    for (name, a), (_, b) in zip(network.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(("kind", "pieces"), [("patch", patches()), ("dense", tiles())])
def test_gradients_are_those_of_ordinary_back_propagation(kind, pieces, dropout, training):
    compare(encoder(kind, dropout=dropout).train(training), pieces)


def test_float32_agrees_to_rounding():
    compare(encoder(dtype=torch.float32), patches(dtype=torch.float32), tolerance=1e-5)


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_any_batch_gives_the_same_where_batches_do_not_matter(batch):
    network = encoder().eval()
    compare(network, patches(batch=batch))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("kind", "pieces"), [("patch", patches()), ("dense", tiles())])
def test_cuda_draws_the_same_twice(kind, pieces):
    compare(encoder(kind, dropout=0.4).cuda(), pieces, tolerance=1e-8)


def test_gradients_add_up_over_calls():
    compare(encoder(dropout=0.2), patches(), calls=3)


def test_tiles_with_a_halo_are_one_pass_over_everything():
    networks, heads = [encoder("dense").eval() for _ in range(2)], [head(), head()]
    ours = multistage_backward(networks[0], tiles(), criterion(heads[0]), shape=(ROWS, COLS))
    theirs = criterion(heads[1])(networks[1](image_under_map()[None])[:, :, 1:-1, 1:-1])
    theirs.backward()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=0)
    assert_same(gradients(networks[0], heads[0]), gradients(networks[1], heads[1]))


def test_running_statistics_are_updated_once():
    network = encoder()
    multistage_backward(network, patches(), criterion(head()), shape=(ROWS, COLS))
    assert int(network[1].num_batches_tracked) == len(patches())


def test_augmentation_in_the_encoder_draws_the_same_twice():
    class Jitter(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            flipped = pixels.flip(-1) if torch.rand(()) < 0.5 else pixels
            return flipped * (1 + 0.3 * torch.randn(len(pixels), 1, 1, 1, dtype=pixels.dtype))

    compare(nn.Sequential(Jitter(), encoder(norm=False)), patches())


def test_a_module_whose_buffers_change_its_output_is_replayed():
    network = encoder(norm=False)
    network[0] = nn.utils.parametrizations.spectral_norm(network[0])
    compare(network, patches())


@pytest.mark.parametrize("frozen", [(0,), (0, 1), (4,)])
def test_frozen_parts_get_no_gradient_and_the_rest_the_right_one(frozen):
    network = encoder()
    for index in frozen:
        network[index].requires_grad_(requires_grad=False)
    compare(network, patches())


def test_a_frozen_encoder_is_not_run_again():
    network, runs = encoder().requires_grad_(requires_grad=False), []
    network.register_forward_hook(lambda *_: runs.append(1))
    multistage_backward(network, patches(), criterion(head()), shape=(ROWS, COLS))
    assert len(runs) == len(patches())


def test_several_maps_in_one_loss():
    """Maps of a batch are encoded one after the other and fed back in another order."""
    network, heads = encoder(dropout=0.3), [head(), head()]
    other, pieces = copy.deepcopy(network), (patches(), patches(count=20))
    torch.manual_seed(5)
    maps = [StagedMap(network, some, (ROWS, COLS)) for some in pieces]
    heads[0](torch.cat([staged.features for staged in maps])).square().sum().backward()
    for staged in reversed(maps):
        staged.backpropagate()
        assert staged.features.grad is None
    torch.manual_seed(5)
    heads[1](torch.cat([ordinary(other, some) for some in pieces])).square().sum().backward()
    assert_same(gradients(network, heads[0]), gradients(other, heads[1]))
    for a, b in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)


def test_scaled_gradients_are_unscaled_by_the_scaler():
    networks = [encoder(dtype=torch.float32) for _ in range(2)]
    pieces, tuned = patches(dtype=torch.float32), head(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for network, some in zip(networks, (None, scaler), strict=True):
        multistage_backward(network, pieces, criterion(tuned, torch.float32), shape=(ROWS, COLS), scaler=some)
    plain, scaled = (gradients(network) for network in networks)
    assert_same(scaled, [1024 * value for value in plain], 1e-5)
    optimizer = torch.optim.SGD(networks[1].parameters(), lr=1.0)
    scaler.unscale_(optimizer)
    assert_same(gradients(networks[1]), plain, 1e-5)


@pytest.mark.parametrize("surrounded", [False, True])
def test_mixed_precision_is_that_of_ordinary_back_propagation(surrounded):
    """Also inside another autocast, whose cache of weights cast without a graph would cut the parameters off."""
    networks, tuned = [encoder(dtype=torch.float32) for _ in range(2)], head(torch.float32)
    pieces = patches(dtype=torch.float32)

    def loss_of(features: Tensor) -> Tensor:
        return tuned(features).float().square().mean()

    with torch.autocast("cpu", dtype=torch.float16, enabled=surrounded):
        multistage_backward(networks[0], pieces, loss_of, shape=(ROWS, COLS), autocast=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(ordinary(networks[1], pieces))
    loss.backward()
    # bfloat16 has eight bits, and the gradients of pieces are added in another order.
    assert_same(gradients(networks[0]), gradients(networks[1]), 2e-2)
    assert all(gradient.dtype == torch.float32 for gradient in gradients(networks[0]))


class Saved:
    """Bytes that autograd keeps for the backward pass, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Held:
        return Held(tensor, self)

    def add(self, count: int) -> None:
        self.now += count
        self.most = max(self.most, self.now)


class Held:
    """A saved tensor that tells when it is let go."""

    def __init__(self, tensor: Tensor, saved: Saved) -> None:
        self.tensor, count = tensor, tensor.numel() * tensor.element_size()
        saved.add(count)
        weakref.finalize(self, saved.add, -count)


def most_saved(work: Callable[[], object]) -> int:
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        work()
    assert saved.now == 0
    return saved.most


def test_memory_does_not_grow_with_the_number_of_patches():
    def ours(count: int) -> int:
        pieces = patches(count=count)
        return most_saved(lambda: multistage_backward(network, pieces, torch.Tensor.sum, shape=(ROWS, COLS)))

    def theirs(count: int) -> int:
        return most_saved(lambda: ordinary(network, patches(count=count)).sum().backward())

    network = encoder()
    assert ours(40) == ours(8) > 0
    assert theirs(40) > 4 * theirs(8)
    assert ours(8) < 0.6 * theirs(8)


def test_pieces_are_read_as_they_are_needed():
    class Source:
        """Knows how many of its pieces are alive."""

        def __init__(self) -> None:
            self.alive, self.most, self.reads = 0, 0, 0

        def __len__(self) -> int:
            return len(patches())

        def __getitem__(self, index: int) -> MapPiece:
            piece = patches()[index]
            self.alive, self.reads = self.alive + 1, self.reads + 1
            self.most = max(self.most, self.alive)
            weakref.finalize(piece, self._drop)
            return piece

        def _drop(self) -> None:
            self.alive -= 1

    source = Source()
    multistage_backward(encoder(), source, criterion(head()), shape=(ROWS, COLS), depth=2)
    assert source.reads == 2 * len(source)
    assert 2 <= source.most <= 4
    assert source.alive == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_projects_own_encoder(picture, training):
    """ResNet with its batch norms on uint8 pixels: what `train` tunes."""
    networks = [build_resnet("resnet18", kind="patch", weights="none", fold=False) for _ in range(2)]
    for network in networks:
        network.requires_grad_().train(training)
    pixels = torch.from_numpy(picture[200:264, 200:392].copy()).view(64, 3, 64, 3).transpose(0, 1).contiguous()
    pieces = [MapPiece(pixels[i : i + 1], torch.tensor([[0, i]])) for i in range(3)]
    multistage_backward(networks[0], pieces, lambda features: features.square().mean(), shape=(1, 3))
    torch.stack([networks[1](piece.pixels)[0] for piece in pieces], dim=1).square().mean().backward()
    assert_same(gradients(networks[0]), gradients(networks[1]), 1e-5)


class Changing:
    """A source that gives other pixels each time."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> MapPiece:
        pixels = torch.randn(2, 3, 12, 12, generator=self.generator, dtype=torch.float64)
        return MapPiece(pixels, torch.tensor([[0, 0], [0, 1]]))


def test_a_source_that_gives_other_pixels_the_second_time_is_refused():
    with pytest.raises(NumericsError, match=r"encoded otherwise the second time .*augmentation belongs in the encoder"):
        multistage_backward(encoder(), Changing(), torch.Tensor.sum, shape=(ROWS, COLS))


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "needs at least one piece"),
        ([MapPiece(torch.zeros(1, 3, 12, 12).double(), torch.tensor([[ROWS, 0]]))], "lie off a map"),
        ([MapPiece(torch.zeros(1, 3, 12, 12).double(), torch.tensor([[0, -1]]))], "lie off a map"),
        ([MapPiece(torch.zeros(2, 3, 12, 12).double(), torch.tensor([[0, 0]]))], r"shape \(2, 5\) for 1 images"),
        ([MapPiece(torch.zeros(2, 3, 12, 12).double(), torch.zeros(2, 2, dtype=torch.int64))], "1 cells .* filled by"),
    ],
)
def test_impossible_pieces_are_refused(pieces, message):
    with pytest.raises(NumericsError, match=message):
        multistage_backward(encoder(), pieces, torch.Tensor.sum, shape=(ROWS, COLS))


def test_a_loss_without_the_map_is_refused():
    weight = torch.ones(1, requires_grad=True)
    with pytest.raises(NumericsError, match="does not depend on the feature map"):
        multistage_backward(encoder(), patches(), lambda _: weight.sum(), shape=(ROWS, COLS))
