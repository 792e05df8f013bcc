"""Training steps as CUDA graphs: a step is two thousand small kernels, and a host takes longer to start them than a GPU for them.

A micro-batch replays three graphs: one makes its inputs (simulated defects, frozen features), one is the networks' forward pass
with the objective, one their backward pass. The engine sees the last two as one autograd function, so that DeepSpeed's hooks,
reductions and optimizer step stay what they are. Collectives and the optimizer are in no graph. The graphs are those of one kind
of step, captured again at the second micro-batch of the next kind: the first runs without, so that all it needs is set up where it
will be used. What cannot be captured runs as it would without, after one warning.

Replays write to the same memory every time. So everything here that outlives a replay is either copied or spent before the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from bikd_fast.config import TrainingConfig
from bikd_fast.training.capture import bring, origin, record, unchanged
from bikd_fast.training.distillation import Balance, Inputs, Result
from bikd_fast.training.inputs import InputMaker
from bikd_fast.training.sampling import Batch
from bikd_fast.training.schedule import Phase

INPUTS, NETWORKS = "inputs", "networks"


def wanted(training: TrainingConfig, device: torch.device, stage: int, low: torch.dtype | None, streamed: bool) -> set[str]:
    """Which parts of a step are to be graphs.

    Args:
        stage: of ZeRO; from 1 on hooks of DeepSpeed run within the networks' passes.
        low: the type that DeepSpeed casts the whole module to, or None.
        streamed: pictures come from the host, step by step, and not all that is done with them goes without asking the device.
    """
    if not training.cuda_graphs or device.type != "cuda":
        return set()
    networks = stage == 0 and low is None and not training.compile
    return ({NETWORKS} if networks else set()) | (set() if streamed else {INPUTS})


def tensors(inputs: Inputs) -> list[torch.Tensor]:
    """All tensors of the inputs, in the order of its fields."""
    found: list[torch.Tensor] = []
    for field in fields(inputs):
        value = getattr(inputs, field.name)
        found += [] if value is None else [value] if isinstance(value, torch.Tensor) else value
    return found


class Graphs:
    """The graphs of the kind of step in hand, captured when they are first needed.

    Args:
        parts: of :func:`wanted`; one that cannot be captured is taken out.
        say: where a warning goes.
    """

    def __init__(self, parts: set[str], make: InputMaker, engine: Any, say: Callable[[str], None]) -> None:
        self.parts, self.make, self.engine, self.say = parts, make, engine, say
        self.kind: tuple[bool, bool] | None = None
        self.held: dict[str, Any] = {}
        self.unseen: set[str] = set()  # parts that have yet to run without a graph in this kind of step

    @property
    def load(self) -> bool:
        """Whether pictures are loaded within a graph: then nobody else need fetch them."""
        return INPUTS in self.parts

    def inputs(self, batch: Batch, now: Phase, pictures: torch.Tensor | None, others: torch.Tensor | None) -> Inputs:
        """Of one micro-batch, as the maker makes them; those of a graph hold until the next call."""
        graph = self._of(INPUTS, now, lambda: InputsGraph(self.make, batch, now))
        return self.make(batch, now, pictures, others) if graph is None else self.make.over_ranks(graph(batch))

    def forward(self, inputs: Inputs, now: Phase) -> Result:
        """Loss and terms as the engine gives them, ready for its backward pass."""
        graph = self._of(NETWORKS, now, lambda: NetworksGraph(self.engine, inputs, now))
        if graph is None or not graph.fits(inputs):
            return self.engine(inputs, now.weight)
        return self.engine(inputs, now.weight, graph)

    def clear(self) -> None:
        """Give the graphs' memory back."""
        if self.held and torch.cuda.is_available():
            torch.cuda.synchronize()  # the last replay may still run in it
        self.held.clear()

    def _of(self, part: str, now: Phase, build: Callable[[], Any]) -> Any:
        if self.kind != (now.backward, now.head):
            self.clear()
            self.kind, self.unseen = (now.backward, now.head), set(self.parts)
        if part in self.unseen:
            self.unseen.discard(part)
            return None
        if part in self.parts and part not in self.held:
            try:
                with unchanged(self.engine.module):
                    self.held[part] = build()
            except RuntimeError as error:
                self.parts.discard(part)
                first = origin(error)
                reason = (str(first).strip().splitlines() or [type(first).__name__])[0].rstrip(".")
                self.say(f"warning: no CUDA graph of the {part} (training.cuda_graphs), steps take longer: {reason}.")
        return self.held.get(part)


class InputsGraph:
    """The inputs of micro-batches by one graph; their tensors are the same ones every time."""

    def __init__(self, make: InputMaker, batch: Batch, now: Phase) -> None:
        self.batch = torch.stack([batch.index, batch.keys]).to(make.ranks.device)
        with torch.no_grad():
            [(self.graph, self.inputs)] = record(lambda: make.local(Batch(self.batch[0], self.batch[1]), now))

    def __call__(self, batch: Batch) -> Inputs:
        bring(self.batch, torch.stack([batch.index, batch.keys]))
        self.graph.replay()
        return self.inputs


class NetworksGraph:
    """Loss and gradients by two graphs, in place of the module's own passes.

    Args:
        engine: of DeepSpeed, at ZeRO stage 0; its autocast holds within the graphs.
        inputs: such as will be given; the graphs read from these very tensors, so those of a graph need no copy.
    """

    def __init__(self, engine: Any, inputs: Inputs, now: Phase) -> None:
        device = inputs.nuisance.device
        self.inputs = replace(inputs, keys=None if inputs.keys is None else inputs.keys.to(device))
        self.beta = torch.full((), now.weight, device=device) if now.backward else 0.0
        self.upstream = torch.ones((), device=device)
        self.several = engine.gradient_accumulation_steps() > 1
        parameters = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
        # the same memory as leaves of their own: autograd's nodes of the parameters themselves may live on from an earlier pass and
        # belong to its stream, which a capture must not touch
        leaves = {f"module.{name}": p.data.requires_grad_() for name, p in parameters.items()}
        networks = Unhooked(engine.module)
        enabled = engine.torch_autocast_enabled()
        dtype = engine.torch_autocast_dtype() if enabled else None
        tape: list[torch.Tensor] = []

        def forward() -> tuple[torch.Tensor, torch.Tensor]:
            # the context begins and ends here: its cache of lowered weights is filled within the graph, never from before
            with torch.autocast(device.type, dtype=dtype, enabled=enabled):
                loss, terms = functional_call(networks, leaves, (self.inputs, self.beta))
            self.names = tuple(terms)
            tape.append(loss)
            return loss.detach(), torch.stack([term.detach().float() for term in terms.values()])

        def backward() -> list[torch.Tensor | None]:
            found = torch.autograd.grad(tape.pop(), list(leaves.values()), self.upstream, allow_unused=True)
            return [None if g is None else laid_out(g, p) for g, p in zip(found, leaves.values())]

        (self.ahead, (self.loss, self.terms)), (self.back, gradients) = record(forward, backward)
        self.parameters = [p for p, g in zip(parameters.values(), gradients) if g is not None]
        self.gradients = [g for g in gradients if g is not None]

    def fits(self, inputs: Inputs) -> bool:
        return [x.shape for x in tensors(inputs)] == [x.shape for x in tensors(self.inputs)]

    def __call__(self, inputs: Inputs, beta: Balance) -> Result:
        for static, given in zip(tensors(self.inputs), tensors(inputs)):
            bring(static, given)
        if isinstance(self.beta, torch.Tensor):
            self.beta.fill_(beta)
        loss, terms = Replayed.apply(self, *self.parameters)
        return loss, dict(zip(self.names, terms.unbind()))


class Unhooked(torch.nn.Module):
    """A module's own forward pass. Called as usual, the engine's module runs DeepSpeed's hooks as well; they belong around the
    replay, where they run anyway, and some wait for the device, which breaks a capture."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *given: Any) -> Any:
        return self.module.forward(*given)


class Replayed(torch.autograd.Function):
    """(loss, terms) of a :class:`NetworksGraph` and its parameters, whose gradients come from its second graph."""

    @staticmethod
    def forward(ctx, graph, *parameters):
        ctx.graph = graph
        graph.ahead.replay()
        loss, terms = graph.loss.clone(), graph.terms.clone()  # they are looked at after the next micro-batch's replay
        ctx.mark_non_differentiable(terms)
        return loss, terms

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, _):
        graph = ctx.graph
        graph.upstream.copy_(upstream)
        graph.back.replay()
        # autograd takes what is returned for a parameter's .grad as it is where there is none yet. With one micro-batch a step that
        # is well: the optimizer has spent it before the next replay. With several, that would overwrite what it is to be added to.
        given = [g.detach() for g in graph.gradients]
        if graph.several:
            given = [torch.empty_like(g) for g in graph.gradients]
            torch._foreach_copy_(given, graph.gradients)
        return None, *given


def laid_out(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """With the parameter's strides, as autograd wants .grad: here it is a copy within the graph, outside one launch a parameter."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
