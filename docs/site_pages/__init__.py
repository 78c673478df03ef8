"""What the site has beside the pages of docs/: pages made from the code, and the table of contents."""
