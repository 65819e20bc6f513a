"""Does a latent control what the model writes?"""
