module example.com/shouter

go 1.26
