"""DCNv2 over pairs (Wang et al., 2021), trained in torch as examples come, served by ONNX Runtime."""

# N pairs, S slots of ids, F numbers, D input width.

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from benchmarks.lab.peer.features import Pairs
from ranker.arrays import F32, I64
from ranker.model.init import log_odds

ROWS, WIDTH, CROSSES = 2**18, 8, 2
PARAMETERS = 28_123
"""Dense parameters to come near to: as many as the tiers of `tiers` have."""
DENSE_RATE, ROW_RATE, PLACE_RATE = 2e-3, 0.05, 0.02
POSITIONS = 200


class Dcn(nn.Module):
    """Logit = linear of [cross layers, hidden layer] of ids' embeddings and scaled numbers."""

    mean_F: Tensor
    spread_F: Tensor

    def __init__(self, slots: int, numbers: int, prior: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(ROWS, WIDTH, sparse=True)
        nn.init.normal_(self.table.weight, std=0.01)
        D = slots * WIDTH + numbers
        hidden = max(8, (PARAMETERS - CROSSES * D * (D + 1) - D - 1) // (D + 2))
        self.crosses = nn.ModuleList(nn.Linear(D, D) for _ in range(CROSSES))
        self.hidden = nn.Linear(D, hidden)
        self.out = nn.Linear(D + hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, log_odds(prior))
        self.place = nn.Parameter(torch.zeros(POSITIONS))
        self.register_buffer("mean_F", torch.zeros(numbers))
        self.register_buffer("spread_F", torch.ones(numbers))

    @property
    def dense_parameters(self) -> int:
        parts = (self.crosses, self.hidden, self.out)
        return sum(p.numel() for part in parts for p in part.parameters())

    def forward(self, row_NS: Tensor, number_NF: Tensor) -> Tensor:
        """Logits [N], without a place."""
        scaled_NF = (number_NF - self.mean_F) / self.spread_F
        x0_ND = torch.cat([self.table(row_NS).flatten(1), scaled_NF], dim=1)
        x_ND = x0_ND
        for cross in self.crosses:
            x_ND = x0_ND * cross(x_ND) + x_ND
        logit_N1: Tensor = self.out(torch.cat([x_ND, F.relu(self.hidden(x0_ND))], dim=1))
        return logit_N1.squeeze(1)


def rows_of(pairs: Pairs) -> I64:
    """[N, S]: keys are salted by their slot, so slots share the table."""
    return (pairs.key_NS % np.uint64(ROWS)).astype(np.int64)


class DcnTrainer:
    """Learns examples once, in the steps in which they come."""

    def __init__(self, slots: int, numbers: int, prior: float) -> None:
        self.model = Dcn(slots, numbers, prior)
        dense = [p for name, p in self.model.named_parameters() if name not in ("table.weight", "place")]
        self._dense = torch.optim.Adam(
            [{"params": dense, "lr": DENSE_RATE}, {"params": [self.model.place], "lr": PLACE_RATE}]
        )
        self._rows = torch.optim.Adagrad([self.model.table.weight], lr=ROW_RATE)
        self._seen = 0
        self._shown = torch.zeros(POSITIONS)

    def learn(self, pairs: Pairs, click_N: F32, position_N: I64) -> None:
        self._rescale(pairs.number_NF)
        place_N = torch.from_numpy(np.minimum(position_N, POSITIONS - 1))
        logit_N = self.model(torch.from_numpy(rows_of(pairs)), torch.from_numpy(pairs.number_NF))
        logit_N = logit_N + self.model.place[place_N]
        loss = F.binary_cross_entropy_with_logits(logit_N, torch.from_numpy(click_N))
        for optimizer in (self._dense, self._rows):
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in (self._dense, self._rows):
            optimizer.step()
        self._shown += torch.bincount(place_N, minlength=POSITIONS)

    @property
    def mean_place(self) -> float:
        """Bias of an average place."""
        return float(self.model.place.detach() @ self._shown / self._shown.sum().clamp(min=1))

    @torch.no_grad()
    def predict(self, pairs: Pairs, position_N: I64) -> F32:
        logit_N = self.model(torch.from_numpy(rows_of(pairs)), torch.from_numpy(pairs.number_NF))
        place_N = self.model.place[torch.from_numpy(np.minimum(position_N, POSITIONS - 1))]
        p_N: F32 = torch.sigmoid(logit_N + place_N).numpy()
        return p_N

    @torch.no_grad()
    def _rescale(self, number_NF: F32) -> None:
        """Running mean and spread of the numbers, which stand still as examples become many."""
        model, number = self.model, torch.from_numpy(number_NF)
        self._seen += len(number_NF)
        share = max(len(number_NF) / self._seen, 1e-4)
        square_F = model.spread_F**2 + model.mean_F**2
        square_F += share * ((number**2).mean(dim=0) - square_F)
        model.mean_F += share * (number.mean(dim=0) - model.mean_F)
        model.spread_F.copy_((square_F - model.mean_F**2).clamp(min=1e-4).sqrt())

    def save(self, path: Path) -> None:
        """Writes the graph, whole or not at all."""
        text = to_onnx(self.model, self.mean_place).SerializeToString()
        path.with_suffix(".new").write_bytes(text)
        path.with_suffix(".new").replace(path)


def to_onnx(model: Dcn, place: float) -> onnx.ModelProto:
    """The serving of pairs as a graph: `rows` int64 [N, S] and `numbers` float32 [N, F] → `p` float32 [N, 1]."""
    tensors, nodes = {}, []

    def constant(name: str, value: Tensor) -> str:
        tensors[name] = numpy_helper.from_array(np.ascontiguousarray(value.detach().numpy()), name)
        return name

    def node(kind: str, inputs: list[str], output: str) -> str:
        along: dict[str, Any] = {"axis": 1} if kind == "Concat" else {}
        nodes.append(helper.make_node(kind, inputs, [output], **along))
        return output

    def linear(name: str, layer: nn.Linear, x: str) -> str:
        product = node("MatMul", [x, constant(f"{name}.weight", layer.weight.t())], f"{name}.product")
        return node("Add", [product, constant(f"{name}.bias", layer.bias)], f"{name}.out")

    slots = (model.hidden.in_features - len(model.mean_F)) // WIDTH
    gathered = node("Gather", [constant("table", model.table.weight), "rows"], "gathered")
    flat = node("Reshape", [gathered, constant("flat", torch.tensor([-1, slots * WIDTH]))], "embedded")
    centred = node("Sub", ["numbers", constant("mean", model.mean_F)], "centred")
    x0 = node("Concat", [flat, node("Div", [centred, constant("spread", model.spread_F)], "scaled")], "x0")
    x = x0
    for n, cross in enumerate(model.crosses):
        assert isinstance(cross, nn.Linear)
        crossed = node("Mul", [x0, linear(f"cross{n}", cross, x)], f"crossed{n}")
        x = node("Add", [crossed, x], f"x{n + 1}")
    deep = node("Relu", [linear("hidden", model.hidden, x0)], "deep")
    logit = linear("out", model.out, node("Concat", [x, deep], "all"))
    placed = node("Add", [logit, constant("place", torch.tensor([place]))], "placed")
    node("Sigmoid", [placed], "p")
    graph = helper.make_graph(
        nodes,
        "dcn",
        [
            helper.make_tensor_value_info("rows", TensorProto.INT64, ["N", slots]),
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["N", len(model.mean_F)]),
        ],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 1])],
        list(tensors.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class DcnScorer:
    """A saved graph, on one thread."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path.read_bytes(), options, ["CPUExecutionProvider"])

    def predict(self, pairs: Pairs) -> F32:
        [p_N1] = self._session.run(None, {"rows": rows_of(pairs), "numbers": pairs.number_NF})
        p_N: F32 = p_N1[:, 0]
        return p_N
