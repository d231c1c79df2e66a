"""The Fourier mechanism: characters, named parts, and the tests of them."""
