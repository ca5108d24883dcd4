"""From text to a Strategy, or to every Problem in the text at once."""
