"""Labels and scores that networks give to images: identities sought in tracklets, and which images to train on."""
