"""The habits of the house, as far as a machine can check them."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from valkyrie import dataplane

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "bpf": {"bpf"},
    "shm": {"shm"},
    "dataplane": {"bpf", "shm", "dataplane"},
    "controlplane": {"bpf", "shm", "dataplane", "controlplane"},
}
"""Layer -> the layers it knows of."""

FOLDERS = (
    "security",
    "config",
    "confinement",
    "sessions",
    "host",
    "counters",
    "daemon",
    "broker",
    "cli",
)
"""Of controlplane/: each knows of those before it."""
KNOWN_BELOW = {
    "valkyrie.controlplane.broker.messages": "what broker and daemon say to each other",
    "valkyrie.controlplane.broker.boot": "the memory that everything is in",
}

PURE = ("controlplane/security/", "controlplane/sessions/", "dataplane/files/transfer.py")
"""Protocol logic: time and randomness are its arguments, packets its results."""
IMPURE = {"asyncio", "logging", "random", "select", "selectors", "signal", "socket", "threading"}

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
LINE_COLUMNS_MAX = 100
TAB_COLUMNS = 8

WIRE_HEADER = "bpf/vk_wire.h"
ABI_HEADERS = (WIRE_HEADER, "bpf/vk_maps.h", "shm/vk_region.h", "shm/vk_shm.h", "shm/vk_counters.h")
SECOND_OPINION = "tests/bpf/model.py"
"""Written from the format's text: it must not share a mistake with the headers."""
MAY_STATE_WIRE_CONSTANTS = (WIRE_HEADER, SECOND_OPINION, "README.md", "docs/")


@functools.cache
def tracked() -> tuple[str, ...]:
    """Return the paths that belong to the project, relative to its root."""
    listing = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    return tuple(sorted(path for path in listing.split("\0") if path and (ROOT / path).is_file()))


@functools.cache
def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def is_script(path: str, interpreter: str) -> bool:
    return "." not in Path(path).name and bool(
        re.match(rf"#!.*\b{interpreter}", text(path).partition("\n")[0])
    )


def python_files(*folders: str) -> list[str]:
    return [
        path
        for path in tracked()
        if (path.endswith(".py") or (path.startswith("scripts/") and is_script(path, "python")))
        and (not folders or path.split("/")[0] in folders)
    ]


def c_files() -> list[str]:
    return [path for path in tracked() if path.endswith((".c", ".h"))]


def shell_files() -> list[str]:
    return [
        path
        for path in tracked()
        if path.startswith(("scripts/", ".ci/")) and is_script(path, "bash")
    ]


@functools.cache
def tree(path: str) -> ast.Module:
    return ast.parse(text(path), filename=path)


def dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` for a chain of names, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def imports(path: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import; ``from a import b`` also yields ``a.b``."""
    layer = path.split("/", maxsplit=1)[0]
    package = ["valkyrie", *Path(path).parent.parts]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # public.py is installed one level up, as valkyrie/__init__.py.
                home = ["valkyrie"] if path == "dataplane/public.py" else package
                if layer not in MAY_IMPORT:  # within a folder of scripts/ or perf/
                    home = list(Path(path).parent.parts)
                base = ".".join([*home[: len(home) - node.level + 1], *filter(None, [base])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{name.name}") for name in node.names)


def without_comments(source: str) -> str:
    """Return C source with comments and strings blanked, line for line."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, source, flags=re.DOTALL)


def enumerators() -> dict[str, str]:
    """Return the names of the ABI headers' constants -> header."""
    found = {}
    for header in ABI_HEADERS:
        for body in re.findall(r"\benum \w+ \{(.*?)\}", without_comments(text(header)), re.DOTALL):
            found.update(dict.fromkeys(re.findall(r"\b(VK_\w+)\s*=", body), header))
    return found


def verdict(found: list[str]) -> None:
    if found:
        pytest.fail("\n".join(["", *found]), pytrace=False)


# ---- Layers ----


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_the_layers_below_it(layer: str) -> None:
    found = []
    for path in python_files(layer):
        for line, module in imports(path):
            parts = module.split(".")
            known = parts[0] == "valkyrie" and len(parts) > 1 and parts[1] in MAY_IMPORT
            if known and parts[1] not in MAY_IMPORT[layer]:
                found.append(f"{path}:{line}: {layer} must not know of {module}")
            if module == "valkyrie" and layer in ("bpf", "shm"):
                found.append(f"{path}:{line}: the public API is above {layer}")
    verdict(found)


def test_a_folder_of_the_control_plane_knows_only_those_below_it() -> None:
    found = []
    for path in python_files("controlplane"):
        home = path.split("/")[1]
        below = FOLDERS[: FOLDERS.index(home) + 1] if home in FOLDERS else ()
        for line, module in imports(path):
            layer, folder, *rest = [*module.split(".")[1:], "", ""]
            above = layer == "controlplane" and folder in FOLDERS and folder not in below
            if above and rest[0] and not module.startswith(tuple(KNOWN_BELOW)):
                found.append(f"{path}:{line}: {home} must not know of {module}")
    verdict(found)


def test_protocol_logic_asks_nobody_for_time_randomness_or_packets() -> None:
    pure = [path for path in python_files(*MAY_IMPORT) if path.startswith(PURE)]
    pure = [path for path in pure if not path.endswith(("_file.py", "_files.py"))]
    found = [
        f"{path}:{line}: import {module}"
        for path in pure
        for line, module in imports(path)
        if module.split(".")[0] in IMPURE
    ]
    found += [
        f"{at}: {name}"
        for at, name in called(*MAY_IMPORT)
        if at.rpartition(":")[0] in pure and name.split(".")[0] in ("time", "os", "secrets")
    ]
    verdict(found)


def test_c_includes_only_headers_of_layers_below() -> None:
    home = {Path(path).name: path.split("/")[0] for path in c_files() if path.endswith(".h")}
    found = []
    for path in c_files():
        layer = path.split("/")[0]
        for number, line in enumerate(text(path).splitlines(), start=1):
            match = re.match(r'\s*#\s*include "(?:.*/)?([^"/]+)"', line)
            if match and layer in MAY_IMPORT and home.get(match[1]) not in MAY_IMPORT[layer]:
                found.append(f"{path}:{number}: {layer} must not include {match[1]}")
    verdict(found)


def test_protocol_logic_in_the_product_runs_no_other_programs() -> None:
    banned = {"subprocess", "pty", "multiprocessing", "pickle", "marshal"}
    found = [
        f"{path}:{line}: import {module}"
        for path in python_files(*MAY_IMPORT)
        for line, module in imports(path)
        if module.split(".")[0] in banned
    ]
    calls = re.compile(r"os\.(system|popen|spawn\w*|exec\w*)|asyncio\.create_subprocess_\w+")
    found += [f"{at}: {name}" for at, name in called(*MAY_IMPORT) if calls.fullmatch(name)]
    verdict(found)


def called(*folders: str) -> Iterator[tuple[str, str]]:
    """Yield (place, dotted name) of every call in the Python files of some folders."""
    for path in python_files(*folders):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and (name := dotted(node.func)):
                yield f"{path}:{node.lineno}", name


def test_only_the_configuration_reads_the_environment() -> None:
    found = [
        f"{path}:{node.lineno}: the environment is read in controlplane/config*.py only"
        for path in python_files(*MAY_IMPORT)
        if not path.startswith("controlplane/config")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and dotted(node) in ("os.environ", "os.getenv")
    ]
    verdict(found)


def test_tests_wait_for_conditions_and_never_sleep() -> None:
    found = [
        f"{at}: {name}: wait_until (tests/lab.py) waits for a condition"
        for at, name in called("tests")
        if name in ("time.sleep", "sleep", "asyncio.sleep") and not at.startswith("tests/lab.py:")
    ]
    verdict(found)


def test_network_namespaces_have_no_names() -> None:
    pattern = re.compile(r"netns\.create|ip\W+netns\W+add")
    verdict([f"{path}: named namespace" for path in python_files() if pattern.search(text(path))])


# ---- Sizes ----


def test_files_and_lines_are_short_enough() -> None:
    found = []
    for path in {*python_files(), *c_files(), *shell_files()}:
        lines = text(path).splitlines()
        if len(lines) > FILE_LINES_MAX:
            found.append(f"{path}: {len(lines)} lines, at most {FILE_LINES_MAX}: split it by noun")
        found += [
            f"{path}:{number}: longer than {LINE_COLUMNS_MAX} columns"
            for number, line in enumerate(lines, start=1)
            if len(line.expandtabs(TAB_COLUMNS)) > LINE_COLUMNS_MAX
        ]
    verdict(sorted(found))


def test_python_functions_fit_a_screen() -> None:
    found = [
        f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"
        for path in python_files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    verdict(found)


def test_c_functions_fit_a_screen() -> None:
    found = [
        f"{path}:{start}: {lines} lines, at most {FUNCTION_LINES_MAX}"
        for path in c_files()
        for start, lines in c_functions(path)
        if lines > FUNCTION_LINES_MAX
    ]
    verdict(found)


def c_functions(path: str) -> Iterator[tuple[int, int]]:
    """Yield (first line, lines) of every function: its signature and what its braces hold."""
    lines = without_comments(text(path)).splitlines()
    start = 0
    for index, line in enumerate(lines):
        if line.rstrip() == "{":
            start = index
            while start and lines[start - 1].strip() and lines[start - 1][0] not in "}#":
                start -= 1
        elif line.startswith("}") and start:
            yield start + 1, index - start + 1
            start = 0


# ---- One statement of every format ----


def test_nobody_restates_the_magic_and_the_port() -> None:
    stated = {int(dataplane.lib.VK_MAGIC), int(dataplane.lib.VK_PORT)}
    found = []
    for path in tracked():
        if path.startswith(MAY_STATE_WIRE_CONSTANTS):
            continue
        if path in python_files():
            found += [
                f"{path}:{node.lineno}: {node.value:#x} stands in {WIRE_HEADER}"
                for node in ast.walk(tree(path))
                if isinstance(node, ast.Constant)
                and type(node.value) is int
                and node.value in stated
            ]
        elif path.endswith((".c", ".h", ".toml", ".build")) or path in shell_files():
            source = without_comments(text(path)) if path in c_files() else text(path)
            found += [
                f"{path}: {number} stands in {WIRE_HEADER}"
                for number in re.findall(r"\b(?:0[xX][0-9a-fA-F]+|[0-9]+)\b", source)
                if int(number, 16 if number[:2].lower() == "0x" else 10) in stated
            ]
    verdict(found)


def test_python_restates_no_constant_of_the_abi_headers() -> None:
    known = enumerators()
    assert "VK_HEADER_SIZE" in known
    found = []
    for path in python_files():
        classes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
        for scope, body in [("", tree(path).body), *((c.name, c.body) for c in classes)]:
            prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", scope).upper()
            for node in body:
                if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
                    continue
                if not isinstance(node.value.value, int | bytes):
                    continue
                for name in (dotted(target) for target in node.targets):
                    same = {name, f"VK_{name}", f"VK_{prefix}_{name}"} & known.keys()
                    found += [f"{path}:{node.lineno}: {full} is in {known[full]}" for full in same]
    verdict(found)


def test_c_constants_are_enumerators_that_python_can_see() -> None:
    found = [
        f"{path}:{number}: an enum reaches Python, a #define does not"
        for path in c_files()
        if path.endswith(".h")
        for number, line in enumerate(text(path).splitlines(), start=1)
        if re.match(r"\s*#\s*define\s+VK_\w+\s+\(?-?\d", line)
    ]
    verdict(found)


# ---- Contracts ----


def test_headers_say_what_they_are_for() -> None:
    found = []
    for path in c_files():
        source = text(path)
        if not re.match(r"(/\*|//) SPDX-License-Identifier: ", source):
            found.append(f"{path}: no SPDX licence line")
        name = Path(path).name
        if name.endswith(".h") and not re.search(
            rf"^/\* {re.escape(name)}\b", source, re.MULTILINE
        ):
            found.append(f"{path}: no comment that begins with its name and says what it is for")
    verdict(found)


def test_every_function_of_a_header_has_a_contract() -> None:
    found = []
    for path in c_files():
        if not path.endswith(".h"):
            continue
        source = text(path)
        code = without_comments(source)
        for match in re.finditer(
            r"^(?!return|typedef|\t|#)[\w][\w \t*()]*?\b(vk_\w+)\(", code, re.MULTILINE
        ):
            # The block that the function stands in: back to the blank line above.
            start = source.rfind("\n\n", 0, match.start()) + 1
            comments = " ".join(re.findall(r"/\*.*?\*/", source[start : match.start()], re.DOTALL))
            if not re.search(rf"\b{match[1]}\b", comments):
                line = source.count("\n", 0, match.start()) + 1
                found.append(f"{path}:{line}: no contract comment above names {match[1]}")
    verdict(found)


# ---- Nothing dead, nothing unfinished, nothing foreign ----


def test_every_file_of_a_layer_is_built_and_installed() -> None:
    found = []
    for path in tracked():
        layer, _, name = path.partition("/")
        if layer not in MAY_IMPORT or name == "meson.build":
            continue
        build = text(f"{layer}/meson.build")
        wanted = f"'{name.removesuffix('.bpf.c')}'" if name.endswith(".bpf.c") else f"'{name}'"
        included = name.endswith(".h") and any(
            re.search(rf'#\s*include "(?:.*/)?{re.escape(Path(name).name)}"', text(other))
            for other in c_files()
            if other != path
        )
        if wanted not in build and not included:
            found.append(f"{path}: not in {layer}/meson.build, nor included by anything")
    verdict(found)


def test_every_module_of_the_product_is_used() -> None:
    used = {
        module
        for path in python_files()
        for _, module in imports(path)
        if module.startswith("valkyrie.")
    }
    entry_points = {"dataplane/public.py"}
    quoted = "\n".join(
        text(path) for path in tracked() if path.endswith((".py", ".build", ".toml"))
    )
    found = []
    for path in python_files(*MAY_IMPORT):
        module = "valkyrie." + ".".join(Path(path).with_suffix("").parts)
        if path in entry_points or path.endswith("__init__.py"):
            continue
        if module not in used and f'"{module}' not in quoted:
            found.append(f"{path}: nobody imports {module}")
    verdict(found)


def test_tests_mirror_the_source() -> None:
    found = []
    for path in python_files("tests"):
        parts = Path(path).parts
        if len(parts) < 3 or parts[1] not in MAY_IMPORT or not parts[-1].startswith("test_"):
            continue
        stems = {
            re.sub(r"^vk_", "", Path(other).name.partition(".")[0])
            for other in tracked()
            if other.startswith(f"{parts[1]}/")
        } | {Path(other).parent.name for other in tracked() if other.startswith(f"{parts[1]}/")}
        subject = parts[-1].removeprefix("test_").removesuffix(".py")
        if not any(subject == stem or subject.startswith(f"{stem}_") for stem in stems):
            found.append(f"{path}: no file of {parts[1]}/ that it would be the test of")
    verdict(found)


def test_third_party_imports_are_declared_and_locked() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    optional = [item for items in project["optional-dependencies"].values() for item in items]
    declared = {re.split(r"[<>=~! \[]", item)[0] for item in [*project["dependencies"], *optional]}
    locks = text("requirements.lock") + text("requirements-fn-dsa.lock")
    locked = set(re.findall(r"^([a-z0-9-]+)==", locks, re.MULTILINE))
    wanted = set(re.findall(r"^([a-z0-9-]+)", text("requirements.in"), re.MULTILINE))
    found = [f"requirements*.lock: {name} is missing" for name in (declared | wanted) - locked]
    own = {"valkyrie", "", *sys.stdlib_module_names}
    distributions = {"OpenSSL": "pyopenssl"}
    for path in python_files(*MAY_IMPORT):
        for line, module in imports(path):
            name = module.split(".")[0]
            name = distributions.get(name, name)
            if name not in own and name.replace("_", "-") not in declared:
                found.append(f"{path}:{line}: pyproject.toml does not declare {name}")
    verdict(found)


def test_no_unfinished_business() -> None:
    # Put together here, so that this file does not contain what it looks for.
    marks = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"))
    product = "|".join(("NotImplemented" + "Error", "place" + "holder", "simu" + "lated"))
    found = []
    for path in tracked():
        if path.endswith((".lock", ".png", ".pcap", ".bin")) or "/vectors/" in path:
            continue
        words = f"{marks}|{product}" if path.split("/")[0] in MAY_IMPORT else marks
        found += [
            f"{path}:{number}: {match[0]}"
            for number, line in enumerate(text(path).splitlines(), start=1)
            if (match := re.search(rf"\b({words})\b", line))
        ]
    verdict(found)


def test_no_address_of_a_package_registry_or_of_one_machine() -> None:
    hosts = ("py" + "pi", "python" + "hosted", "deb" + "ian", "npm" + "js")
    banned = [f"{host}.org" for host in hosts] + ["/" + "work/", "/" + "root/"]
    found = [
        f"{path}: names {word}"
        for path in tracked()
        if not path.endswith((".png", ".pcap", ".bin"))
        for word in banned
        if word in text(path)
    ]
    verdict(found)


def test_shell_scripts_stop_at_the_first_error() -> None:
    found = [
        f"{path}: no set -euo pipefail"
        for path in shell_files()
        if not re.search(r"^set -[eEuT]+o pipefail$", text(path), re.MULTILINE)
    ]
    verdict(found)
