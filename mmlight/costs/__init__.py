"""What a step costs: counted from the model, measured on the machine, foretold for another."""
