"""What an exception comes down to: through wrappers, notes and copies to the user's own words and line."""

import json

import pytest

from manyfit.core.causes import Cause, cause_of, reason_of, traceback_of
from manyfit.core.lifecycle import failure_of

NOTE = "For simplicity, JAX has removed its internal frames from the traceback of the following exception. Set ..."


def raised(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def wrong():
    raise ValueError("shapes differ: (3,) and (4,)\nin the second line")


def like_keras(function):
    """What Keras does around the call of a layer: a copy of the error with the text in the middle, and no context."""
    try:
        function()
    except Exception as error:
        text = f"Exception encountered when calling Mine.call().\n\n\x1b[1m{error}\x1b[0m\n\n"
        copy = type(error)(f"{text}Arguments received by Mine.call():\n  • x=jnp.ndarray(shape=(2, 4))")
        raise copy.with_traceback(error.__traceback__) from None


def test_type_first_line_and_the_users_own_line_of_code():
    cause = cause_of(raised(wrong))
    assert (cause.kind, cause.code) == (
        "ValueError",
        'raise ValueError("shapes differ: (3,) and (4,)\\nin the second line")',
    )
    assert cause.text == "shapes differ: (3,) and (4,) / in the second line"
    assert cause.place == f"test_causes.py:{wrong.__code__.co_firstlineno + 1}"
    assert str(cause).startswith(f"ValueError: shapes differ: (3,) and (4,) / in the second line ({cause.place}: raise")


def test_what_keras_and_jax_add_is_no_part_of_a_cause():
    error = raised(like_keras, wrong)
    error.add_note("--------------------")
    error.add_note(NOTE)
    assert cause_of(error) == cause_of(raised(wrong))
    assert "JAX has removed" not in traceback_of(error) and "shapes differ" in traceback_of(error)


def test_a_wrapper_that_lost_what_it_wraps_is_told_by_its_text():
    error = raised(like_keras, wrong)
    error.__context__ = None
    assert cause_of(error).text == "shapes differ: (3,) and (4,) / in the second line"


def test_the_innermost_frame_of_the_user_counts_and_those_of_libraries_do_not():
    def reads():
        json.loads("{")

    cause = cause_of(raised(reads))
    assert (cause.kind, cause.code) == ("JSONDecodeError", 'json.loads("{")')


def test_an_error_without_a_frame_of_the_user_has_no_line():
    assert cause_of(StopIteration()) == Cause("StopIteration", "")
    assert str(cause_of(StopIteration())) == "StopIteration"


def test_what_an_error_came_from_is_told_where_it_says_something_new():
    def explicit():
        try:
            wrong()
        except ValueError as error:
            raise RuntimeError("no model of that kind") from error

    def implicit():
        try:
            wrong()
        except ValueError:
            raise RuntimeError("no model of that kind")  # noqa: B904  # it is what is tested

    for function in (explicit, implicit):
        cause = cause_of(raised(function))
        assert (cause.kind, cause.text) == ("RuntimeError", "no model of that kind")
        assert cause.root == "ValueError: shapes differ: (3,) and (4,) / in the second line"
        assert cause.code.startswith("raise RuntimeError")


def test_a_copy_that_travelled_between_processes_is_no_other_error():
    class RemoteTraceback(Exception):
        pass

    error = raised(wrong)
    error.__cause__ = RemoteTraceback(f'\n"""\nTraceback (most recent call last):\n  ...\nValueError: {error}\n"""')
    assert cause_of(error).root is None


def test_a_chain_that_bites_its_tail_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert cause_of(first).kind == "ValueError"


def test_of_a_group_the_first_counts():
    group = ExceptionGroup("several", [raised(wrong), KeyError("b")])
    assert cause_of(group).text.startswith("shapes differ")


def test_a_message_of_another_runtime_tells_its_python_error():
    """What a compiled program says of a Python function that it calls (`jax.pure_callback`, `tf.py_function`)."""
    text = (
        "INTERNAL: CpuCallback error calling callback: Traceback (most recent call last):\n"
        f'  File "{__file__}", line 3, in host\n    raise\n'
        '  File "/somewhere/site-packages/jax/callback.py", line 9, in call\n    f()\n'
        "ValueError: no such row\n\n\t [[{{node PyFunc}}]] [Op:__inference_one_step_12]"
    )
    cause = cause_of(RuntimeError(text))
    assert (cause.kind, cause.text, cause.place) == ("ValueError", "no such row", "test_causes.py:3")


def test_the_dump_of_a_graph_is_no_cause():
    text = (
        "Graph execution error:\n\nDetected at node gather defined at (most recent call last):\n"
        '  File "/a/site-packages/keras/src/layers/layer.py", line 9, in call\n\n'
        f'  File "{__file__}", line 3, in <module>\n\n'
        "{{function_node gather}} indices[0] = 99 is not in [0, 3)\n\t [[{{node gather}}]]\n\t [[IteratorGetNext]] "
        "[Op:__inference_one_step_on_iterator_12]"
    )
    cause = cause_of(ValueError(text))
    assert (cause.text, cause.place) == ("indices[0] = 99 is not in [0, 3)", "test_causes.py:3")


def test_numbers_are_kept_and_addresses_are_not():
    assert cause_of(ValueError("got 3")) != cause_of(ValueError("got 4"))
    assert cause_of(ValueError("<A object at 0x7f01>")) == cause_of(ValueError("<A object at 0x7f02>"))


def test_an_error_that_cannot_be_shown_is_still_told():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    assert str(cause_of(Odd())) == "Odd"


def test_long_texts_are_cut():
    assert len(str(cause_of(ValueError("x" * 5000 + "\n" + "y" * 5000)))) < 1100


def test_the_cause_is_the_last_line_of_a_failures_message():
    failure = failure_of(raised(wrong))
    assert reason_of(failure.message) == str(failure.cause) == failure.line


@pytest.mark.parametrize("message", [None, "", "  \n"])
def test_no_message_no_reason(message):
    assert reason_of(message) == ""
