module suite.test

go 1.26.0
