"""Has it been answered before? A wrapper around the stage that answers, which gives earlier answers again."""
