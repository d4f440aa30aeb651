"""Where prompts come from: shipped chit-chat, any data set of prompts, any data set of preferences."""
