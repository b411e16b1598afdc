"""Looking at built data: a stratified sample of rows with what the checks say of them, in the terminal or as a page."""
