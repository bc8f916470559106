"""The networks of the paper: tensors in, tensors out. They know no environment, no file and no registry."""
