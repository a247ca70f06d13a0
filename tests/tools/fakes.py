"""A checkout in a folder of its own, with programs that play go, apt-get and dpkg-deb."""

from __future__ import annotations

import os
from pathlib import Path

from infra.tools.layout import Layout
from infra.tools.pins import Pin, Source

TOOL = "nines-fake-tool"
"""On nobody's PATH."""

GO = """#!/bin/sh
# go, as far as the set-up uses it. The file `mode` beside it says how it behaves.
here=${0%/*}
mode=$(cat "$here/mode" 2>/dev/null)
echo "$*" >> "$here/calls"
if [ "$1" = env ]; then echo go1.26.8; exit 0; fi
if [ "$1" = list ]; then exit 0; fi
out=
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then out=$2; fi
  shift
done
case $mode in
  offline) echo 'go: module fetch: dial tcp: lookup proxy: no such host' >&2; exit 1;;
  full) printf half > "$out"; echo 'write: no space left on device' >&2; exit 1;;
  hang)
    printf half > "$out"
    echo $$ > "$here/hanging.new"; mv "$here/hanging.new" "$here/hanging"
    exec sleep 300;;
  lying) version=9.9.9;;
  *) version=1.2.3;;
esac
printf '#!/bin/sh\\necho "fake version %s"\\n' "$version" > "$out"
chmod +x "$out"
"""

APT = """#!/bin/sh
# apt-get: `update` gives lists; `--simulate install` names a library; `download` needs lists.
here=${0%/*}
echo "$*" >> "$here/apt-calls"
own=
for word in "$@"; do case $word in Dir::State::Lists=*) own=yes;; esac; done
case " $* " in
  *" update "*) : > "$here/have-lists"; exit 0;;
esac
if [ -e "$here/need-lists" ] && { [ -z "$own" ] || [ ! -e "$here/have-lists" ]; }; then
  echo 'E: Unable to locate package fake' >&2; exit 100
fi
case " $* " in
  *" --simulate "*) echo 'Inst libfake1 (1.0 Fake [amd64])'; echo 'Inst libjs-noise (1 Fake [all])'; exit 0;;
esac
: > fake_1%3a4.5.6-1_amd64.deb
case " $* " in *" libfake1"*) : > libfake1_1.0_amd64.deb;; esac
"""

DPKG = """#!/bin/sh
# dpkg-deb -x FILE TREE
here=${0%/*}
case $2 in
  *libfake1*) mkdir -p "$3/usr/lib/fake"; echo library > "$3/usr/lib/fake/libfake.so.1"; exit 0;;
esac
mkdir -p "$3/usr/bin"
cat > "$3/usr/bin/nines-fake-tool" <<'END'
#!/bin/sh
case $LD_LIBRARY_PATH in */usr/lib/fake*) ;; *) echo 'libfake.so.1: not found' >&2; exit 127;; esac
echo "fake $(cat "${0%/*}/number" 2>/dev/null || echo 4.5.6)"
END
chmod +x "$3/usr/bin/nines-fake-tool"
if [ -e "$here/old" ]; then echo 1.0.0 > "$3/usr/bin/number"; fi
"""


def write_program(path: Path, text: str) -> Path:
    """An executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def checkout(root: Path) -> Layout:
    """A checkout with one Go tool, whose go command is the fake one."""
    layout = Layout(root)
    module = layout.modules / "fake"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module fake\n\ngo 1.26\n")
    (module / "go.sum").write_text("example.org/fake v1.2.3 h1:x\n")
    layout.bin.mkdir(parents=True)
    layout.scratch.mkdir(parents=True)
    write_program(layout.go / "bin" / "go", GO)
    return layout


def go_mode(layout: Layout, mode: str) -> None:
    """How the fake go behaves from now on: `well`, `offline`, `full`, `hang` or `lying`."""
    (layout.go / "bin" / "mode").write_text(mode)


def go_calls(layout: Layout, word: str) -> int:
    """How often the fake go was called with `word` first."""
    calls = layout.go / "bin" / "calls"
    return sum(line.startswith(word) for line in calls.read_text().splitlines()) if calls.exists() else 0


def go_pin() -> Pin:
    """The Go tool of `checkout`."""
    return Pin(TOOL, Source.GO, "1.2.3", ">=1.2,<2", "example.org/fake", "fake")


def debian_pin() -> Pin:
    """A tool of a package that the fake apt-get has."""
    return Pin(TOOL, Source.DEBIAN, "4.5", ">=4.5,<5", "fake", "fakedeb", file=f"usr/bin/{TOOL}")


def fake_apt(folder: Path) -> dict[str, str]:
    """Put apt-get and dpkg-deb into `folder`; returns the PATH that finds them."""
    write_program(folder / "apt-get", APT)
    write_program(folder / "dpkg-deb", DPKG)
    return {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}
