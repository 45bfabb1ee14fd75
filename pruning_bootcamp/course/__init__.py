"""The course: 21 days as Markdown with front matter, what is shown and written of them, what a week must have made."""
