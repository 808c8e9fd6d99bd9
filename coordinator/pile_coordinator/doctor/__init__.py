"""`pilechain doctor`: looks at everything a site needs and says what to do. One function a check; nothing is changed."""
