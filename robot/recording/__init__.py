"""A person's episodes, through the journal, as LeRobot datasets."""
