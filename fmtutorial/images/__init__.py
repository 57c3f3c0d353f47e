"""Images: their data, training runs, sampling and measures, and a command. Chapter 8."""
