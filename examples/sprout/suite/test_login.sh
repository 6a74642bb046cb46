test_address_is_told() {
	echo "$APPLIANCE_NAME is at $BASE_URL"
	test "$BASE_URL" = "https://$APPLIANCE_ADDRESS/"
}

test_template_is_told() {
	test -n "$APPLIANCE_TEMPLATE"
}
