"""Export weights for other libraries, with the preprocessing of the evaluation and a model card.

export   what is exported: weights, model, class names, preprocessing, where they come from
formats  the files of each format
card     README.md with the header that the Hugging Face Hub reads
folder   write a folder completely or not at all
push     the folder as a commit in a repository of the Hugging Face Hub
command  what the entry script calls
"""
