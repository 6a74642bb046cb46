# Prints the tests of the modules here: test_a.sh::test_x, or test_a.sh::test_x[p] for
# each parameter in the comment behind a function's first line.
for module in test_*.sh; do
	while IFS= read -r line; do
		case $line in
		test_*"() {"*) ;;
		*) continue ;;
		esac
		name=${line%%"()"*}
		case $line in
		*"# "*) for p in ${line#*"# "}; do echo "$module::$name[$p]"; done ;;
		*) echo "$module::$name" ;;
		esac
	done <"$module"
done
