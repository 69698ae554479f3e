"""What does a publisher of native builds need to know of a file, and may the file be published?

One rule: what a manifest says of a file was read out of that file; a file that cannot be read in full is refused.
"""
