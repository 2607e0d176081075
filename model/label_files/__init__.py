"""Label files of other tools, to what they say of each class in index order: `files` reads, `content` and `lines` know
the forms. A form counts only if the whole file has it; a file that has one in part is refused, never read as names.
"""
