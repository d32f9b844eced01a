"""Teachers that are `.pt2` archives of `torch.export.save`."""
