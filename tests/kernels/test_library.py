"""Where there is no library, or one that does not fit, there is a reason and no kernels."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import backend
from pipeline.kernels import build, library
from pipeline.kernels.library import Library, Unavailable


def loaded_afresh() -> Library | Unavailable:
    return library.load.__wrapped__()


def chosen_with(value: str) -> str:
    """What another process chooses with the variable set to `value`."""
    code = (
        "from pipeline import backend; found = backend.kernels();"
        "print(getattr(found, 'instruction_set', None) or found.reason)"
    )
    environment = {**backend.user_environment(), library.VARIABLE: value}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_a_variable_turns_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is no reason for a warning."""
    monkeypatch.setenv(library.VARIABLE, "off")
    found = loaded_afresh()
    assert isinstance(found, Unavailable)
    assert found.expected


def test_a_processor_without_these_instruction_sets_has_none(library: Library) -> None:
    """As with a variable that hides them."""
    assert "none of the instruction sets" in chosen_with("none")


def test_a_lesser_instruction_set_can_be_chosen(library: Library) -> None:
    """It is the last of those that this processor has."""
    least = library.native.supported().split(",")[-1]
    assert chosen_with(least) == least


def test_a_library_that_was_not_built_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason says what to do."""
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    monkeypatch.delenv(library.VARIABLE, raising=False)
    found = loaded_afresh()
    assert isinstance(found, Unavailable)
    assert "make kernels" in found.reason
    assert not found.expected


def test_a_damaged_library_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The process goes on without."""
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    monkeypatch.delenv(library.VARIABLE, raising=False)
    (tmp_path / library.file_name()).write_bytes(b"\x7fELF and no more")
    found = loaded_afresh()
    assert isinstance(found, Unavailable)
    assert "cannot be loaded" in found.reason


def test_a_library_that_has_changed_since_it_was_built_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A page of zeros, as after a loss of power, could end the process that computes with it."""
    (tmp_path / "built").mkdir()
    built = tmp_path / "built" / library.file_name()
    built.write_bytes(bytes(range(256)) * 64)
    build._put(built, tmp_path)
    kept = tmp_path / library.file_name()
    kept.write_bytes(bytes(4096) + kept.read_bytes()[4096:])
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    monkeypatch.delenv(library.VARIABLE, raising=False)
    found = loaded_afresh()
    assert isinstance(found, Unavailable)
    assert "is damaged" in found.reason


def test_a_folder_that_cannot_be_searched_holds_no_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the environment calls the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/" + 300 * "x")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert library.find() is None


def test_a_compiler_that_is_no_command_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quote without its other half is what a person typed."""
    monkeypatch.setenv("CXX", "'g++")
    with pytest.raises(build.BuildError, match="CXX is not a command"):
        build.find_compiler()


def test_a_user_without_a_home_folder_gets_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the environment's own folder is left to search."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert library.folders() == (Path(sys.prefix, "lib", "packet-voice"),)


def test_another_mlx_needs_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a library that was built for one is never loaded beside another."""
    here = library.file_name()
    monkeypatch.setattr(library.importlib.metadata, "version", lambda name: "0.31.2")
    assert library.file_name.__wrapped__() != here


def test_a_library_of_another_mlx_is_not_used(library: Library, tmp_path: Path) -> None:
    """Whatever its name says: the version that it was compiled with is in it."""
    assert library.native.__file__ is not None
    built = Path(library.native.__file__).read_bytes()
    version = f"{library.native.mlx_version}\0".encode()
    assert version in built
    copy = tmp_path / "kernels.so"
    copy.write_bytes(built.replace(version, version[:-2] + b"x\0"))
    code = (
        "import sys; from pathlib import Path; from pipeline import backend; backend.prepare();"
        "from pipeline.kernels import library; print(library.open_library(Path(sys.argv[1])))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, copy],
        env=backend.user_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "built for another version of MLX" in result.stdout


def test_without_a_compiler_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Set-up goes on, and says what to install."""
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    monkeypatch.setattr(sys, "argv", ["build", "--force"])
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    build.main()
    assert "no C++ compiler found" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(build.BuildError, match="no compiler no-such-compiler -O2, which CXX names"):
        build.find_compiler()


def test_a_failing_compiler_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own message is the reason."""
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'fatal error: no such header' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.BuildError, match="no such header"):
        build.build(tmp_path / "kernels")
    assert not list((tmp_path / "kernels").iterdir())


def test_other_processors_are_left_alone() -> None:
    """There is no code for them."""
    with pytest.raises(build.BuildError, match="riscv64"):
        build.instruction_sets("riscv64")


def test_without_a_library_the_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence, with the reason; a choice of the user's is none."""
    monkeypatch.setattr(backend, "kernels", lambda: Unavailable("they have not been built"))
    assert "not been built" in (backend.missing_kernels() or "")
    monkeypatch.setattr(backend, "kernels", lambda: Unavailable("off", expected=True))
    assert backend.missing_kernels() is None
