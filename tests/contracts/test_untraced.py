"""torch's lazy way of leaving a function untraced, against `torch.compiler.disable`."""

import subprocess
import sys

import pytest
import torch

from qpeft.qcircuits.untraced import untraced


def compiled(decorator, **options):
    """A compiled function around a decorated method; what the method saw and how many graphs were made."""
    seen, graphs = [], []

    class Thing:
        @decorator
        def double(self, x, *, by=2):
            """Doubles."""
            seen.append(torch.compiler.is_compiling())
            return by * x

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    thing = Thing()
    torch.compiler.reset()
    return torch.compile(lambda x: thing.double(x.sin(), by=3).cos(), backend=backend, **options), seen, graphs


@pytest.mark.parametrize("decorator", [untraced, torch.compiler.disable])
def test_the_function_is_called_and_not_traced(decorator):
    function, seen, graphs = compiled(decorator)
    x = torch.linspace(-1, 1, 5, requires_grad=True)
    for _ in range(2):
        torch.testing.assert_close(function(x), (3 * x.sin()).cos())
    (gradient,) = torch.autograd.grad(function(x).sum(), x)
    torch.testing.assert_close(gradient, -(3 * x.sin()).sin() * 3 * x.cos())
    assert seen == [False] * 3
    assert len(graphs) == 2  # one before the call and one behind it


@pytest.mark.parametrize("decorator", [untraced, torch.compiler.disable])
def test_what_must_be_one_graph_is_refused(decorator):
    function, seen, _ = compiled(decorator, fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        function(torch.ones(2))
    assert seen == []


@pytest.mark.parametrize("decorator", [untraced, torch.compiler.disable])
def test_name_and_docstring_stay(decorator):
    def named(x):
        """Says what it does."""
        return x

    assert decorator(named).__name__ == "named" and decorator(named).__doc__ == "Says what it does."


def test_the_compiler_is_loaded_by_the_call_alone():
    program = (
        "import sys; from qpeft.qcircuits.untraced import untraced; f = untraced(lambda x: -x)\n"
        "assert 'torch._dynamo' not in sys.modules; assert f(2) == -2; assert 'torch._dynamo' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
