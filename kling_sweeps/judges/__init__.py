"""What models that see are asked about videos: the words, the answers that are taken, and which two are compared."""
