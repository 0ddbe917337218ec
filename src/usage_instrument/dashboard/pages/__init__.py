"""The pages, one file each: a visit in, HTML out."""
