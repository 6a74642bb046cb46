# Runs one test: its function, with the parameter as argument.
module=${1%%::*}
name=${1#*::}
param=
case $name in
*"["*) param=${name#*"["} param=${param%"]"} name=${name%%"["*} ;;
esac
set -e
. "./$module"
"$name" "$param"
