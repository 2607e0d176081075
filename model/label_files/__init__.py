"""Label files of other tools. A form counts only if the whole file has it; a file that has it in part is refused.

Enters: a file; `label_file` reads it, `structured_labels` and `text_labels` know the forms.
Leaves: a wnid or a name of each class, in index order.
Runs in: the processes of `crossvit export` and `crossvit train`.
"""
