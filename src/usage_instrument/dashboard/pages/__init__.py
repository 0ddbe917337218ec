"""The pages, one file each: a page request in, HTML out."""
