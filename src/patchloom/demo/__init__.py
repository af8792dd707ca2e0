"""The demonstration: scenes with known truth, a small trained model, and a tour of what patchloom does with them."""
