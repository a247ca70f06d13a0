# Read this in a shell, then use pulumi itself in this folder:
#
#     . infra/env.sh            # another stack: . infra/env.sh STACK
#     cd infra && pulumi up
#
# The stack is the one that `threenines up` uses. Read it again after a change of Pulumi.<stack>.yaml.
# Shells other than bash and zsh read it from the project's root.
if [ -n "${BASH_SOURCE:-}" ]; then
    _threenines_root=$(cd "$(dirname "$BASH_SOURCE")/.." && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
    _threenines_root=$(cd "$(dirname "$(eval 'echo ${(%):-%x}')")/.." && pwd)
else
    _threenines_root=$(pwd)
fi
if _threenines_lines=$(cd "$_threenines_root" && .venv/bin/python -m infra.project "${1:-local}"); then
    eval "$_threenines_lines"
    unset _threenines_root _threenines_lines
else
    unset _threenines_root _threenines_lines
    return 3
fi
