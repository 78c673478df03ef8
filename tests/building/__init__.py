"""Records, files and plans that tests are made with."""
