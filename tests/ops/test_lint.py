from ops.lint import CHECKS, main, run


def test_every_check_runs_even_after_one_has_failed(capsys):
    ran = []
    assert main(lambda check: bool(ran.append(check)) or check[0] != "pyright") == 1
    assert tuple(ran) == CHECKS
    assert "failed: pyright" in capsys.readouterr().err


def test_clean_checks_pass():
    assert main(lambda check: True) == 0


def test_a_failing_program_shows_what_it_said(capsys):
    assert not run(("ruff", "check", "no-such-folder"))
    assert "FAIL ruff check no-such-folder" in capsys.readouterr().out
