"""`ModelCosts`: the parameters, multiply-adds and memory of one forward pass, module by module."""

from __future__ import annotations

from dataclasses import dataclass

from propscope.records.display import as_html, as_text


@dataclass(frozen=True, slots=True)
class ModuleCosts:
    """What one module and all that is inside it cost in a forward pass.

    `name`: its dotted path, "" for the model. `kind`: its class. `calls`: how often it ran, 0 where it did not.
    `shape`: that of its first output, None where it has none. `parameters`: the number of elements, a shared one
    counted once; `frozen_parameters`: those of them with requires_grad=False. `multiply_adds`: of all calls.
    `output_bytes`: of what it returned, in all calls. `kept_bytes`: what autograd keeps of it for the backward pass,
    parameters, buffers and the batch left out; None where the pass ran without gradients.
    """

    name: str
    kind: str
    calls: int = 0
    shape: tuple[int, ...] | None = None
    parameters: int = 0
    frozen_parameters: int = 0
    multiply_adds: int = 0
    output_bytes: int = 0
    kept_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """What one forward pass of a model on one batch costs.

    `modules`: the model first, then its modules in the order in which they ran, then those with parameters that did not
    run. `samples`: rows of the batch; None where its inputs differ in their rows. `input_bytes`: of the batch.
    `weight_bytes`: of the parameters. `layer_bytes`: of what the innermost modules returned, changes in place left out.
    `uncounted`: the operations whose multiply-adds are not known, and how often each ran. `stopped`: the error that
    ended the pass, whose counts are then those up to it; "" where it went through.
    """

    modules: tuple[ModuleCosts, ...]
    samples: int | None = None
    input_bytes: int = 0
    weight_bytes: int = 0
    layer_bytes: int = 0
    uncounted: tuple[tuple[str, int], ...] = ()
    stopped: str = ""

    @property
    def parameters(self) -> int:
        """The number of elements of all parameters, a shared one counted once."""
        return self.modules[0].parameters

    @property
    def frozen_parameters(self) -> int:
        """Those of `parameters` with requires_grad=False."""
        return self.modules[0].frozen_parameters

    @property
    def trainable_parameters(self) -> int:
        """Those of `parameters` with requires_grad=True."""
        return self.parameters - self.frozen_parameters

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of the pass: half of its floating-point operations, as FLOPs are usually counted."""
        return self.modules[0].multiply_adds

    @property
    def kept_bytes(self) -> int | None:
        """What autograd keeps for the backward pass; None where the pass ran without gradients."""
        return self.modules[0].kept_bytes

    def __getitem__(self, name: str) -> ModuleCosts:
        """Return the module of that path, "" for the model; raises KeyError."""
        for module in self.modules:
            if module.name == name:
                return module
        raise KeyError(name)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)
