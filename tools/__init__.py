"""Programs for those who work on judge. They are not part of the installed package."""
