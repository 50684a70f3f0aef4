"""Success marks, measured on the exported file, and the report of them."""
