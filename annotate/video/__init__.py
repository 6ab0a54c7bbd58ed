"""Video: exact frames of files, folders of images and animations; a writer."""
