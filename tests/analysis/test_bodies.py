import jax
import jax.numpy as jnp
import pytest

from cnnjax.analysis.bodies import branches, called, inner, live, scan


def only(function, name, *arguments):
    """The one equation of a name in a traced function."""
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    (found,) = (equation for equation in program.eqns if equation.primitive.name == name)
    return found


def turn(carry, row):
    total, _ = carry
    return (total + 2.0 * row["x"].sum(), row["x"]), (total, row["y"])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_with_constants_carry_and_rows(reverse):
    weights = jnp.ones(3)

    def run(weights, start, rows):
        def weighted(carry, row):
            return turn(carry, {**row, "x": row["x"] * weights})

        return jax.lax.scan(weighted, start, rows, reverse=reverse)

    start, rows = (jnp.zeros(()), jnp.zeros(3)), {"x": jnp.ones((5, 3)), "y": jnp.ones((5, 3, 2))}
    found = scan(only(run, "scan", weights, start, rows))
    assert (found.constants, found.carried, found.length, found.reverse) == (1, 2, 5, reverse)
    assert found.split("abcde") == (["a"], ["b", "c"], ["d", "e"])
    assert [name.aval.shape for name in found.body.invars] == [(3,), (), (3,), (3,), (3, 2)]


def test_scans_without_one_or_the_other():
    def find(function, *arguments):
        found = scan(only(function, "scan", *arguments))
        return found.constants, found.carried, len(found.body.invars), len(found.body.outvars)

    x = jnp.ones((1, 1))
    assert find(lambda x: jax.lax.scan(lambda c, _: (c * x, None), jnp.ones((1, 1)), None, length=1), x) == (1, 1, 2, 1)
    assert find(lambda x: jax.lax.scan(lambda c, row: (None, row + 1), None, x)[1], x) == (0, 0, 1, 1)
    assert find(lambda x: jax.lax.scan(lambda c, _: (2 * c, c.sum()), x, None, length=1), x) == (0, 1, 1, 2)


def test_other_equations_are_no_scans():
    x = jnp.ones(3)
    assert scan(only(lambda x: x + 1, "add", x)) is None
    loop = only(lambda x: jax.lax.while_loop(lambda y: y.sum() < 3, lambda y: y * x, x), "while", x)
    assert (scan(loop), called(loop), branches(loop), len(inner(loop))) == (None, None, [], 2)


def test_a_conditional_has_branches_of_all_operands_but_the_choice():
    def run(choice, x, y):
        return jax.lax.cond(choice, lambda x, y: x, lambda x, y: x * y, x, y)

    found = only(run, "cond", True, jnp.ones(3), jnp.ones(3))
    assert called(found) is None
    assert [len(branch.invars) for branch in branches(found)] == [2, 2]


@jax.custom_jvp
def twice(x):
    return 2 * x


@jax.custom_vjp
def thrice(x):
    return 3 * x


twice.defjvp(lambda primals, tangents: (twice(*primals), 2 * tangents[0]))
thrice.defvjp(lambda x: (3 * x, None), lambda _, g: (3 * g,))


@pytest.mark.parametrize("function", [jax.jit(jnp.sin), jax.checkpoint(jnp.sin), twice, thrice])
def test_what_is_called_once_takes_the_equations_operands(function):
    (equation,) = jax.make_jaxpr(function)(jnp.ones(3)).jaxpr.eqns
    program = called(equation)
    assert len(program.invars) == 1
    assert len(live(program.eqns, program.outvars)) == 1
