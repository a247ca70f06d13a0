# Read this in a shell, then use pulumi itself in this folder:
#
#     . infra/env.sh            # or: . infra/env.sh STACK
#     cd infra && pulumi up
#
# The stack is the one that `threenines up` uses. Read it again after a change of Pulumi.<stack>.yaml.
_threenines_root=${THREENINES_ROOT:-$(cd "$(dirname "${BASH_SOURCE:-${(%):-%x}}")/.." 2>/dev/null && pwd)}
if [ ! -d "$_threenines_root/infra" ]; then _threenines_root=$(pwd); fi
if _threenines_lines=$(cd "$_threenines_root" && "$_threenines_root/.venv/bin/python" -m infra.project "${1:-local}"); then
    eval "$_threenines_lines"
fi
unset _threenines_root _threenines_lines
