"""What a search needs where its trials run: settings from drawn values, the leak-free objective, one trial. No driver in here."""
