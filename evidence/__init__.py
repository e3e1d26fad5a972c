"""Which method is better at what: studies on the embedded model, and the page that says what came of them."""
